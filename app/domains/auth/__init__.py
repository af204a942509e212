"""Sign-in, sessions, API tokens, and the callers that tokens authenticate.

Imported by `app.api`, `app.main`, `app.models`, the command line and `domains.register`.
"""
