"""Uvicorn's HTTP protocol with limits that it lacks: for headers, and for the number of connections."""

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.adapters.handshake import tls_protocol
from services.gateway.adapters.open_connections import OpenConnections
from services.gateway.adapters.transport import Peers, plain_peers
from services.gateway.http import ABORT
from services.gateway.settings import GatewaySettings

BACKLOG: Final = 512
"""Most connections that wait to be accepted; so many may be accepted at once, before they are counted."""
_OTHER_FILES = 256
_FIRST_REQUEST_S: Final = 2.0
"""How long a server that stops waits for the first request of a connection, whose caller has just connected."""


def fit_connections(max_connections: int) -> int:
    """Return the number of connections that the limit of open files allows, at most `max_connections`.

    The limit of open files is raised first, as far as necessary and possible.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + BACKLOG + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        max_connections
        if soft == resource.RLIM_INFINITY
        else min(max_connections, max(soft // 4, soft - BACKLOG - _OTHER_FILES))
    )


def limited_protocol(
    settings: GatewaySettings,
    *,
    for_callers: bool = False,
    tls: ssl.SSLContext | None = None,
    on_unread: Callable[[], None] = lambda: None,
) -> type[asyncio.Protocol]:
    """Return the protocol with these limits. A connection that exceeds one is closed without an answer.

    Args:
        settings: the limits.
        for_callers: whether plain HTTP is accepted from this machine and proxies only.
        tls: of the connections; None for plain HTTP. The socket itself listens without TLS in both cases.
        on_unread: called when the kernel ends a connection because its caller does not read.
    """

    class Limited(LimitedProtocol):
        open_connections = OpenConnections(settings.max_connections)
        header_s = settings.header_s
        max_header_bytes = settings.max_header_bytes
        send_buffer_bytes = settings.max_lag_bytes
        plain_from = plain_peers(settings) if for_callers else None
        unread_s = 2 * settings.write_s  # the application drops callers that fill all buffers before that

        def note_unread(self) -> None:
            on_unread()

    return Limited if tls is None else tls_protocol(Limited, tls, Limited.open_connections, settings.header_s)


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with limits: uvicorn itself limits neither time nor size of headers, nor connections.

    Attributes:
        plain_from: from where plain HTTP is accepted; None for everywhere.
        open_connections: the open connections of this server.
    """

    open_connections: OpenConnections

    header_s: float
    max_header_bytes: int
    send_buffer_bytes: int
    unread_s: float
    plain_from: Peers | None
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _trailing_bytes = 0
    _ignores_the_rest = False
    _is_stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Start the time limit of the first headers."""
        super().connection_made(transport)
        if self.plain_from is not None and self.client is not None and not self.plain_from.include(self.client[0]):
            transport.abort()  # before a key is read that others may have read on its way
            return
        self.open_connections.add(self)
        self._deadline = self.loop.call_later(self.header_s, transport.abort)
        # The kernel would buffer some megabytes for each caller that does not read.
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer_bytes)
            # After the answer, it would also wait for ever for a caller whose receive window is closed.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.unread_s * 1000))

    def data_received(self, data: bytes) -> None:
        """Count the bytes of headers, and those after them that are no body, such as trailers."""
        if self._ignores_the_rest:
            return
        self._trailing_bytes += len(data)
        if self._deadline is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        head_bytes = self._trailing_bytes if self._deadline is None else self._head_bytes
        if head_bytes > self.max_header_bytes:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; ignore a trailer, which comes after the body."""
        if self._deadline is not None:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Process a part of the body."""
        self._trailing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Process the end of a request."""
        self._trailing_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Close the connection if the request was answered before it was complete: its rest may never end.

        The connection is not closed at once: a caller that still sends would lose the answer.
        """
        self.open_connections.renew(self)
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._ignores_the_rest = True  # so that nothing delays the closing that uvicorn has just scheduled
            with contextlib.suppress(OSError, NotImplementedError):  # TLS has no half-closed connections
                self.transport.write_eof()

    def on_message_begin(self) -> None:
        """Start the time limit of the headers of the next request."""
        super().on_message_begin()
        if self._deadline is None:
            self._head_bytes = 0
            self._deadline = self.loop.call_later(self.header_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """Stop the time limit, and give the application a function that closes the connection."""
        self._cancel_deadline()
        scope = self.scope
        super().on_headers_complete()
        scope["extensions"] = {**scope.get("extensions", {}), ABORT: self.abort}  # type: ignore[dict-item]  # an own key
        if self._is_stopping:
            super().shutdown()  # once it is answered

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection and its time limit."""
        if isinstance(exc, TimeoutError):  # ETIMEDOUT: the limit of `connection_made`
            self.note_unread()
        self.open_connections.discard(self)
        self._cancel_deadline()
        super().connection_lost(exc)

    def abort(self) -> bool:
        """Close the connection at once; return whether it was open."""
        was_open = not self.transport.is_closing()
        self.transport.abort()
        return was_open

    def note_unread(self) -> None:
        """Do nothing: what counts callers that do not read overrides this."""

    def shutdown(self) -> None:
        """Close the connection after its answer, or at once between two requests; the first one may be on its way."""
        if self.cycle is None and not self._is_stopping:
            self._is_stopping = True
            self.loop.call_later(_FIRST_REQUEST_S, super().shutdown)
        else:
            super().shutdown()

    def is_waiting_for_request(self) -> bool:
        """Return whether there is no complete request that is not answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def is_unread(self) -> bool:
        """Return whether the caller does not read its answer."""
        return bool(self.flow.write_paused)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
