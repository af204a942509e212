"""Imports of files: the rows of a file become one batch, which is written directly or planned first.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
