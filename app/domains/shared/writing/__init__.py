"""Writes of one object or one link, and the errors of violated constraints.

`single_statement` is part of the fast path; `locked` writes under a row lock, after the rules have checked the write;
`tree_depths` finds the objects that writes place too deep in their tree.

Imported by higher packages of `shared` and by packages that span all collections, never by a single collection.
"""
