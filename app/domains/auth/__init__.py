"""Signing in, sessions, API tokens, and the callers of tokens.

`app.api`, `app.main`, `app.models`, the command line and `domains.register` import it.
"""
