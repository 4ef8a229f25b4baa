"""How callers reach the gateway: by TLS, or in plain HTTP from this machine and from proxies that end TLS before it."""

import asyncio
import ipaddress
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.gateway.settings import PRIVATE, GatewaySettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_EVERY_S = 5.0


def require_transport(host: str, settings: GatewaySettings) -> None:
    """End the process if callers elsewhere would send their keys in plain text."""
    if settings.tls_certificate is not None or settings.trusted_proxies or is_loopback(host):
        return
    sys.exit(
        f"gateway: no_tls: {host} is reachable from elsewhere, and keys would be sent in plain text: set "
        "GATEWAY_TLS_CERTIFICATE and GATEWAY_TLS_KEY, or GATEWAY_TRUSTED_PROXIES to the addresses of proxies with TLS"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Peers:
    """From where plain HTTP is accepted: this machine, networks, and all private networks if `private` is set."""

    networks: tuple[Network, ...]
    private: bool = False

    def include(self, address: str) -> bool:
        """Return whether an address is one of them; an IPv4 address in the form of IPv6 is one of IPv4."""
        try:
            given = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        peer = getattr(given, "ipv4_mapped", None) or given
        is_private = self.private and peer.is_private and not peer.is_link_local and not peer.is_unspecified
        return peer.is_loopback or is_private or any(peer in network for network in self.networks)


def plain_peers(settings: GatewaySettings) -> Peers | None:
    """Return from where plain HTTP is accepted; None with TLS, which is accepted from everywhere."""
    if settings.tls_certificate is not None:
        return None
    networks = tuple(ipaddress.ip_network(text) for text in settings.trusted_proxies if text != PRIVATE)
    return Peers(networks, PRIVATE in settings.trusted_proxies)


def tls_context(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Return the TLS context of the gateway's certificate; None without one."""
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


class Certificate:
    """The gateway's certificate in its TLS context; new connections get the one that is in the files.

    Args:
        context: of the server; None without TLS.
        settings: name the files.
    """

    def __init__(self, context: ssl.SSLContext | None, settings: GatewaySettings) -> None:
        self._context = context
        self._files = (settings.tls_certificate, settings.tls_key)
        self._seen = self._state()

    async def follow(self) -> None:
        """Read the files again when they change, for ever; files that do not belong together change nothing."""
        while True:
            await asyncio.sleep(_EVERY_S)
            state = self._state()
            if state is not None and state != self._seen and self._reload():
                self._seen = state

    def _reload(self) -> bool:
        certificate, key = self._files
        if self._context is None or certificate is None:
            return False
        try:
            _check_pair(certificate, key)
            self._context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            structlog.get_logger().warning("the certificate cannot be used yet", error=repr(error))
            return False
        structlog.get_logger().info("certificate replaced", file=str(certificate))
        return True

    def _state(self) -> tuple[int, ...] | None:
        """Return what changes when the files are replaced; None while one is missing."""
        try:
            return tuple(value for file in self._files if file for value in _mark(file))
        except OSError:
            return None


def _check_pair(certificate: Path, key: Path | None) -> None:
    """Raise SSLError unless certificate and key belong together: half of a pair would spoil the context in use."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)


def _mark(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_ino, state.st_mtime_ns
