"""Files of rows that become one batch, at once or as planned before.

Only what stands above it in `shared` imports it, and what stands on all collections: no file of a collection.
"""
