"""Many writes at once, in a number of statements that does not depend on how many they are.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
