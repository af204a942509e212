"""The common base of all collections.

A file of a collection imports only the module of the same name here (`models`, `schemas`, `lists`, `rules`, `service`
or `trees`, `router`). These modules import the packages, and so does the code that spans all collections: `app.api`,
the command line, and the domains `register`, `search`, `change` and `auth`.
"""
