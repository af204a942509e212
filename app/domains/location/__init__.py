"""Locations of work: a tree from regions down to rooms."""
