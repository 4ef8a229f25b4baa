"""Uvicorn's HTTP protocol under limits that it does not have: for headers, and for the number of connections."""

import asyncio
import contextlib
import resource
import socket
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.http import ABORT
from services.gateway.settings import GatewaySettings

BACKLOG: Final = 512
"""How many connections may wait to be accepted; so many are accepted at once, before any of them is counted."""
_OTHER_FILES = 256


def fit_connections(most: int) -> int:
    """Return how many connections the files that this process may have open leave, at most `most`.

    The limit of files is raised as far as that takes, and as the machine lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + BACKLOG + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else min(most, max(soft // 4, soft - BACKLOG - _OTHER_FILES))


def limited_protocol(settings: GatewaySettings) -> type[asyncio.Protocol]:
    """Return the protocol under these limits. A connection that goes beyond one is ended without an answer."""

    class Limited(LimitedProtocol):
        places: dict[LimitedProtocol, None] = {}  # noqa: RUF012 - shared by the connections of this server
        header_s = settings.header_s
        max_header_bytes = settings.max_header_bytes
        max_connections = settings.max_connections
        send_buffer_bytes = settings.max_lag_bytes
        unread_s = 2 * settings.write_s  # the application drops who does not read first, and counts it

    return Limited


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn waits for ever for the end of the headers, keeps all of them, and takes any number of connections.

    Attributes:
        places: the open connections, the one first that was heard of least recently: opened, or answered.
    """

    places: dict["LimitedProtocol", None]

    header_s: float
    max_header_bytes: int
    max_connections: int
    send_buffer_bytes: int
    unread_s: float
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _trailing_bytes = 0
    _ignores_the_rest = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Begin the time in which the first headers must come."""
        super().connection_made(transport)
        self.places[self] = None
        if len(self.places) > self.max_connections:
            self._make_room()
        self._deadline = self.loop.call_later(self.header_s, transport.abort)
        # The kernel would keep up to some megabytes for each caller that does not read.
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer_bytes)
            # It would also wait for ever, after the answer was given, for a caller that keeps its window shut.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.unread_s * 1000))

    def data_received(self, data: bytes) -> None:
        """Count what comes while headers are awaited, and what is no body behind them: trailers, for one."""
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
        """Keep a header; what comes after the body (a trailer) is no header of the request, and is not kept."""
        if self._deadline is not None:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Read a part of the body."""
        self._trailing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._trailing_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the connection where the request was answered before it was whole: its rest may never end.

        It is not closed at once: a caller who still sends would lose the answer.
        """
        if self in self.places:
            del self.places[self]
            self.places[self] = None
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._ignores_the_rest = True  # so that nothing delays the end that uvicorn has just set
            with contextlib.suppress(OSError):
                self.transport.write_eof()

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
        self.places.pop(self, None)
        self._stop_waiting()
        super().connection_lost(exc)

    def awaits_a_request(self) -> bool:
        """Return whether nothing whole was asked here that is not answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _make_room(self) -> None:
        """End the connection that has waited for its caller for longest; where there is none, this one."""
        others = [one for one in self.places if one is not self]
        gone = next((one for one in others if one.awaits_a_request()), None)
        gone = gone or next((one for one in others if one.flow.write_paused), self)
        del self.places[gone]
        gone.transport.abort()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
