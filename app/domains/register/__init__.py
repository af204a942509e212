"""The register as a whole: its export and restore, files of one collection, demo data and housekeeping.

It stands on all domains. The command line and `app.utils.db_init` import it, no request does.
"""
