"""What a list is asked for: filters, orders, groups, search, pages, cursors and the members to show.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
