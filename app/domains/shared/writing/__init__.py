"""Writes of one object or one link, and what a violated constraint means.

`single_statement` is part of the fast path; `locked` does the same under a lock, once the rules were asked. For
`shared.service` and for `bulk`.
"""
