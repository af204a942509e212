"""Writes of one object or one link, and what a violated constraint means.

`single_statement` is part of the fast path; `locked` does the same under a lock, after the rules were asked.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
