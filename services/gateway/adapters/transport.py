"""How callers reach the gateway: by TLS, or in plain HTTP from this machine and behind a proxy that ends TLS."""

import ipaddress
import resource
import sys

from services.gateway.settings import GatewaySettings


def require_transport(host: str, settings: GatewaySettings) -> None:
    """End the process if callers elsewhere would send their keys in plain text."""
    if settings.tls_certificate is not None or settings.behind_proxy or is_loopback(host):
        return
    sys.exit(
        f"gateway: no_tls: {host} is reachable from elsewhere, and keys would be sent in plain text: set "
        "GATEWAY_TLS_CERTIFICATE and GATEWAY_TLS_KEY, or GATEWAY_BEHIND_PROXY if a proxy ends TLS before it"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
