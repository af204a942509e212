"""Signing in, sessions, API tokens and the callers that tokens stand for. Only `app.api` and `app.main` import it, and the command line."""
