"""Reads: the statements that return objects as finished JSON, histories, statistics, trees and whole lists.

`documents` and `json_text` are part of the fast path.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
