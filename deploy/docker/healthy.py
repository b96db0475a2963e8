"""Asks the peer of this container whether it is alive: exit code 0 if its /healthz says so.

The peer serves its metrics on ${HEALTH_PORT:-9464}: --metrics-listen 0.0.0.0:9464.
"""

import os
import sys
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('HEALTH_PORT', '9464')}/healthz"

try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(URL, timeout=3).close()
except OSError as error:
    sys.exit(f"{URL}: {error}")
