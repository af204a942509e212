"""Processes of the organisation, a tree, and their links. May import the other collections."""
