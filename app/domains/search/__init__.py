"""The search in all collections, imported by `app.api` only."""
