"""Roles: job functions (not access rights) and their holders."""
