"""Infrastructure without a domain: settings, the database, tokens, passwords, permissions and the caller.

Everything above may import it; it imports `app.utils` alone and names no collection but in `permissions`.
"""
