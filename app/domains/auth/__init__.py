"""Signing in, sessions, API tokens, and the callers of tokens. `app.api`, `app.main` and the command line import it."""
