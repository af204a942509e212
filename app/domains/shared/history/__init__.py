"""The history: its table, what a statement adds to it, and how two documents differ.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
