"""Many writes at once, in a number of statements that does not depend on how many they are.

For `shared.service` and `router`, for `imports`, and for `domains.register`, which restores by batches.
"""
