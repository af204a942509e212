"""Many writes in one request, with a number of statements that does not depend on the number of writes.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
