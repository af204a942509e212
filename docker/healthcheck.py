#!/usr/bin/env python3
"""Exit with 0 when the server in this container answers the given path with 200.

The slim images have neither curl nor wget. A plain connection is used because proxy variables must not apply to it.
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
if status != 200:  # noqa: PLR2004 - the one status that means well
    sys.exit(f"{sys.argv[1]}: {status}")
