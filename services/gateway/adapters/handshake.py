"""TLS handshakes within the limits of a server: a connection counts from its acceptance, not from its first request.

asyncio's own TLS servers show a connection to its protocol only after the handshake, for which a caller has a minute.
"""

import asyncio
import ssl
from typing import Any

from services.gateway.adapters.open_connections import OpenConnections


def tls_protocol(
    after: type[asyncio.Protocol], context: ssl.SSLContext, connections: OpenConnections, handshake_s: float
) -> type[asyncio.Protocol]:
    """Return the protocol of a listening socket without TLS, which begins TLS itself.

    Args:
        after: uvicorn's protocol, which takes the connection after the handshake.
        context: certificate and versions.
        connections: the open connections, of `after` too.
        handshake_s: time limit of a handshake, and of the end of TLS.
    """

    class Limited(Handshake):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(after, context, connections, handshake_s, arguments)

    return Limited


class Handshake(asyncio.Protocol):
    """A connection until the end of its handshake: it waits for its caller, and may be closed for another.

    Args:
        after: the protocol that takes the connection.
        context: of TLS.
        connections: the open connections.
        limit_s: time limit.
        arguments: uvicorn's, for `after`.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        after: type[asyncio.Protocol],
        context: ssl.SSLContext,
        connections: OpenConnections,
        limit_s: float,
        arguments: dict[str, Any],
    ) -> None:
        self._after, self._context, self._connections = after, context, connections
        self._limit_s, self._arguments = limit_s, arguments
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Count the connection, and begin the handshake before anything of it is read."""
        transport.pause_reading()
        self.transport = transport
        self._arguments["server_state"].connections.add(self)
        self._connections.add(self)
        if not transport.is_closing():
            self._task = asyncio.get_running_loop().create_task(self._start())

    def data_received(self, data: bytes) -> None:
        """Keep what comes with the last message of the handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Count the connection no more."""
        self._leave()

    def is_waiting_for_request(self) -> bool:
        """Return True: no request has arrived."""
        return True

    def is_unread(self) -> bool:
        """Return False: there is no answer."""
        return False

    def shutdown(self) -> None:
        """Close the connection, because the server ends."""
        self.transport.abort()

    async def _start(self) -> None:
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                self.transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._limit_s,
                ssl_shutdown_timeout=self._limit_s,
            )
        except (OSError, RuntimeError):  # RuntimeError: closed for another connection before it began
            self.transport.abort()
            return
        finally:
            self._leave()
        if encrypted is not None and not encrypted.is_closing():
            self._hand_over(encrypted)

    def _hand_over(self, encrypted: asyncio.Transport) -> None:
        protocol = self._after(**self._arguments)
        encrypted.set_protocol(protocol)
        protocol.connection_made(encrypted)
        if self._early:
            protocol.data_received(bytes(self._early))

    def _leave(self) -> None:
        self._connections.discard(self)
        self._arguments["server_state"].connections.discard(self)
