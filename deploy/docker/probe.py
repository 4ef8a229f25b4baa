"""Health check of a container: exit status 0 if the service is ready, else 1 and the reason.

    probe [URL]

Without a URL it asks the service's own readiness. Needs the standard library only.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5.0


def own_url() -> str:
    """Return the readiness URL of this container's service."""
    port = os.environ.get("GATEWAY_ADMIN_PORT") or os.environ.get("SLIPWAY_HTTP_PORT", "8080")
    return f"http://127.0.0.1:{port}/readyz"


def main(url: str) -> int:
    """Return 0 if an address of this container answers without an error, else 1."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing secret is sent, and loopback may be in no certificate
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    # without the environment's proxies
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read().decode(errors="replace") + "\n")
    except OSError as error:
        sys.stderr.write(f"{error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else own_url()))
