"""Requests with an `Idempotency-Key`: the first response is stored in the same transaction, and replayed.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
