"""Requests with an `Idempotency-Key`: the first answer is kept in the same transaction, and given again.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
