"""The domains, each a folder of the same files; `collections` has the list of those that are collections."""
