"""The domains, as folders with the same files; `collections` lists those that are collections."""
