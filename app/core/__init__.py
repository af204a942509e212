"""Infrastructure without a domain: settings, the database, tokens, passwords, permissions and the caller.

Every higher layer may import it; it imports `app.utils` only, and names collections in `permissions` only.
"""
