"""Uvicorn's HTTP protocol under limits that it does not have: for headers, and for the number of connections."""

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.http import ABORT
from services.gateway.settings import GatewaySettings


def limited_protocol(settings: GatewaySettings) -> type[asyncio.Protocol]:
    """Return the protocol under these limits. A connection that goes beyond one is ended without an answer."""

    class Limited(LimitedProtocol):
        header_s = settings.header_s
        max_header_bytes = settings.max_header_bytes
        max_connections = settings.max_connections
        send_buffer_bytes = settings.max_lag_bytes
        unread_s = 2 * settings.write_s  # the application drops who does not read first, and counts it

    return Limited


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn waits for ever for the end of the headers, keeps all of them, and takes any number of connections."""

    header_s: float
    max_header_bytes: int
    max_connections: int
    send_buffer_bytes: int
    unread_s: float
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the time in which the first headers must come."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._deadline = self.loop.call_later(self.header_s, transport.abort)
        # The kernel would keep up to some megabytes for each caller that does not read.
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer_bytes)
            # It would also wait for ever, after the answer was given, for a caller that keeps its window shut.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.unread_s * 1000))

    def data_received(self, data: bytes) -> None:
        """Count what comes while headers are awaited."""
        if self._deadline is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._head_bytes > self.max_header_bytes:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Begin the time in which the headers of the next request must come."""
        super().on_message_begin()
        if self._deadline is None:
            self._head_bytes = 0
            self._deadline = self.loop.call_later(self.header_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """End the time, and give the application a way to end the connection."""
        self._stop_waiting()
        scope = self.scope
        super().on_headers_complete()
        scope["extensions"] = {**scope.get("extensions", {}), ABORT: self.transport.abort}  # type: ignore[dict-item]

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
