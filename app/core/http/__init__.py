"""HTTP without a domain: routes, bodies, query strings as models, streams, middleware and security headers.

Everything above may import it.
"""
