"""What a list is asked for: filters, orders, groups, search, pages, cursors and the members to show.

For `shared.lists` and for what stands above it in `shared`; it imports no package above `history`.
"""
