"""What every collection is made of.

A file of a domain imports its namesake here (`models`, `schemas`, `lists`, `rules`, `service` or `trees`, `router`) and
nothing else. The packages behind these are for them, and for the domains that stand on all collections: `register`,
`search`, `change` and `auth`.
"""
