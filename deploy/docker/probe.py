"""Health check of a container: exit status 0 if the service is ready, else 1 and the reason."""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5.0


def main() -> int:
    """Return 0 if the service in this container is ready, else 1."""
    port = os.environ.get("GATEWAY_ADMIN_PORT") or os.environ.get("SLIPWAY_HTTP_PORT", "8080")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without the environment's proxies
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
