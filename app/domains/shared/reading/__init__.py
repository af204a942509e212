"""Reads: the statements that return objects as finished JSON, histories, statistics, trees and whole lists.

`documents` and `json_text` are part of the fast path.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
