"""Reads: the statements that return objects as finished JSON, histories, statistics, trees and whole lists.

`documents` and `json_text` are part of the fast path.

Importers: the layers above it in `shared` and the code that works on all collections, but no file of a collection.
"""
