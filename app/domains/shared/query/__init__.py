"""The queries of lists: filters, sort orders, groupings, search, pages, cursors, and the members to show.

Importers: the layers above it in `shared` and the code that works on all collections, but no file of a collection.
"""
