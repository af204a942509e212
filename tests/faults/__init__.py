"""Fault injection: real processes are killed, frozen and starved under a writing load.

Each test exists in two sizes: `small` is part of `make test`, `long` has the marker `faults` (`make test-faults`).
"""
