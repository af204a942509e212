"""Roles: job functions, and the users who hold them."""
