"""Processes: what the organisation does, a tree, and the links to all that takes part. It may use other collections."""
