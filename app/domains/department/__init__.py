"""Departments: the units of the organisation, a tree."""
