"""The history of all collections. Imported only by `app.api`."""
