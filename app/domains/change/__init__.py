"""The history of all collections. Only `app.api` imports it."""
