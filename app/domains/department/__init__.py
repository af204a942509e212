"""Departments: the organisation's units, a tree."""
