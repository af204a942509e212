"""Helpers without a domain and without a database: errors, problem documents, logs, metrics; and `db_init`."""
