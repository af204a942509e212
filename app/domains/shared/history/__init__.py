"""The history: its table, the CTE that adds a row, and the difference between two documents.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
