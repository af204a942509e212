"""Requests with an `Idempotency-Key`: the first answer is kept in the same transaction, and given again.

For `shared.router`, whose routes honour the header, and for `app.api`.
"""
