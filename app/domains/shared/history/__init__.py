"""The history: its table, the CTE that adds a row, and the difference between two documents.

Importers: the layers above it in `shared` and the code that works on all collections, but no file of a collection.
"""
