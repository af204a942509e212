"""The common base of all collections.

A file of a collection imports only the module of the same name here (`models`, `schemas`, `lists`, `rules`, `service`
or `trees`, `router`). The packages are imported by these modules and by the code that works on all collections:
`app.api`, the command line, and the domains `register`, `search`, `change` and `auth`.
"""
