"""HTTP without a domain: routes, bodies, query strings as models, streams, middleware and security headers.

Every higher layer may import it.
"""
