"""What every collection is made of.

A file of a collection imports its namesake here (`models`, `schemas`, `lists`, `rules`, `service` or `trees`, `router`)
and nothing else. The packages behind these are for them, and for what stands on all collections: `app.api`, the command
line, and the domains `register`, `search`, `change` and `auth`.
"""
