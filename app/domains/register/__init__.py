"""The register as a whole: its export and restore, files of one collection, demo data and housekeeping.

It stands on all domains. The command line, `app.models` and `app.utils.db_init` import it; no request uses it.
"""
