"""Files of rows that become one batch, at once or as planned before.

For `shared.service` and `router`, and for `domains.register`, which imports files at the command line.
"""
