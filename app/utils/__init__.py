"""Helpers without a domain or a database: errors, problem documents, logs and metrics; and `db_init`."""
