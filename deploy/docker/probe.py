"""Tells the container engine whether a service is ready: exit status 0, or 1 and why."""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5.0


def main() -> int:
    """Ask the service in this container."""
    port = os.environ.get("SLIPWAY_HTTP_PORT", "8080")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxies the environment names
    try:
        with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read().decode(errors="replace") + "\n")
    except OSError as error:
        sys.stderr.write(f"{error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
