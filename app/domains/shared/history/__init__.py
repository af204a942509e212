"""The history: its table, what a statement adds to it, and how two documents differ.

For `reading`, `writing` and `bulk`.
"""
