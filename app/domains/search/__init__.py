"""The search in all collections. Only `app.api` imports it."""
