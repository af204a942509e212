"""Locations: where work is done, a tree from regions down to rooms."""
