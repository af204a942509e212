"""Export and import of the whole register, imports of local files, demo data and housekeeping.

It may import all domains. Imported by the command line, `app.models` and `app.utils.db_init`; not used by requests.
"""
