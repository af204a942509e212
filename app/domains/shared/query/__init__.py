"""The queries of lists: filters, sort orders, groupings, search, pages, cursors, and the members to show.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
