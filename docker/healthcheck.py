#!/usr/bin/env python3
"""Exits with 0 if the server in this container responds with 200 to a GET of the given path.

The slim images contain neither curl nor wget. A plain connection ignores proxy variables.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

try:
    connection = HTTPConnection("localhost", int(os.environ.get("PORT", "8000")), timeout=3)
    connection.request("GET", sys.argv[1])
    status = connection.getresponse().status
except (OSError, HTTPException) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
if status != 200:  # noqa: PLR2004 - OK
    sys.exit(f"{sys.argv[1]}: {status}")
