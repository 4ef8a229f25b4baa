"""HTTP helpers beyond Starlette: bounded bodies, writes with a time limit, a buffer between engine and caller."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.domain import errors
from services.gateway.domain.errors import Problem, RequestRejected
from services.gateway.domain.request_rates import may_take

_PIECE_BYTES = 64
_SLICE_BYTES: Final = 2**16
_EVENT_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # proxies must forward each token at once
}


class SlowReader(Exception):  # noqa: N818 - not an error of the gateway
    """The caller reads its answer too slowly; the answer is aborted."""


class Backlog:
    """Pieces of an answer between the engine and one caller.

    `put` never waits: the engine's times are measured there, and a slow caller must not change them.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        """Start empty; None for no limit."""
        self._limit_bytes = limit_bytes
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def put(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            SlowReader: the unread bytes exceed the limit.
        """
        self._pieces.append(piece)
        self._bytes += _PIECE_BYTES + len(piece)
        self._changed.set()
        if self._limit_bytes is not None and self._bytes > self._limit_bytes and len(self._pieces) > 1:
            raise SlowReader(f"More than {self._limit_bytes} bytes of the answer wait to be read.")

    def end(self, error: Exception | None = None) -> None:
        """Mark the end. `read` raises an error after the remaining pieces, but `SlowReader` at once."""
        self._ended, self._error = True, error
        if isinstance(error, SlowReader):
            self._pieces.clear()
        self._changed.set()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the pieces in order; raise the error passed to `end`."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._bytes -= _PIECE_BYTES + len(piece)
                yield piece
            if self._ended:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error


class BodyReader:
    """Reads request bodies within limits: time and size of each, and total size of all being read.

    A reserve keeps one holder's slow bodies from blocking others (`domain.request_rates`).
    """

    def __init__(self, max_bytes: int, deadline_s: float = 30.0, max_total_bytes: int = 2**26) -> None:
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._max_total_bytes = max_total_bytes
        self._total = 0
        self._totals: Counter[str] = Counter()

    async def read(self, request: Request, holder: str) -> bytes:
        """Return the body of a request of a holder.

        Raises:
            RequestRejected: 413 if the body is too large, 429 if all bodies together are, 408 (and the connection
                closes) if it arrives too slowly.
            ClientDisconnect: the caller disconnected.
        """
        if _declared(request) > self._max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._deadline_s):
                async for chunk in request.stream():
                    fits = not chunk or may_take(self._totals[holder], self._total, len(chunk), self._max_total_bytes)
                    size += len(chunk)
                    self._total += len(chunk)
                    self._totals[holder] += len(chunk)
                    if size > self._max_bytes:
                        raise self._too_large()
                    if self._total > self._max_total_bytes:
                        raise RequestRejected(errors.too_many_bodies(self._max_total_bytes))
                    if not fits:
                        own, limit = self._totals[holder], self._max_total_bytes
                        raise RequestRejected(errors.too_many_of_caller(own, limit, "bytes of requests"))
                    chunks.append(chunk)
        except TimeoutError:
            raise self._too_slow(size) from None
        finally:
            self._total -= size
            self._totals[holder] -= size
            if not self._totals[holder]:
                del self._totals[holder]
        return b"".join(chunks)

    def _too_large(self) -> RequestRejected:
        message = f"The body is longer than the limit of {self._max_bytes} bytes."
        return RequestRejected(Problem(413, message, code="request_too_large"))

    def _too_slow(self, size: int) -> RequestRejected:
        message = f"{size} bytes of the body arrived within the limit of {self._deadline_s:g} s; send it faster."
        return RequestRejected(Problem(408, message, code="request_too_slow", headers={"Connection": "close"}))


def _declared(request: Request) -> int:
    """Return the request's `Content-Length`; 0 without a valid one."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


@contextlib.contextmanager
def limited_writes(send: Send, limit_s: float) -> Iterator[Send]:
    """Yield `send` with a time limit per message.

    Raises (the yielded function):
        SlowReader: the caller read nothing for `limit_s`.
    """
    writes = _LimitedWrites(send, limit_s)
    try:
        yield writes
    finally:
        writes.close()


class _LimitedWrites:
    """Limits each write with one timer per answer: a timer per message would cost more than most writes."""

    def __init__(self, send: Send, limit_s: float) -> None:
        self._send = send
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[Any] | None = None
        self._began_s = 0.0
        self._is_late = False

    async def __call__(self, message: Message) -> None:
        task = self._writing = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        cancelling = task.cancelling()
        self._began_s, self._is_late = self._loop.time(), False
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._check)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if not self._is_late or task.uncancel() > cancelling:
                raise  # the caller disconnected
            raise SlowReader(f"The caller read nothing for {self._limit_s:g} s.") from None
        finally:
            self._writing = None

    def _check(self) -> None:
        """Cancel a write beyond its time limit; else schedule the next check."""
        now_s = self._loop.time()
        began_s = now_s if self._writing is None else self._began_s
        if now_s - began_s < self._limit_s:
            self._timer = self._loop.call_at(began_s + self._limit_s, self._check)
        elif self._writing is not None:
            self._timer, self._is_late = None, True
            self._writing.cancel()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for a problem, in OpenAI's format."""
    return JSONResponse(problem.body(), problem.status, headers={**(headers or {}), **problem.headers})


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end; cancel it if the caller disconnects."""
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnect.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)
    if not task.cancelled():
        task.result()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Reply:
    """The response to one request: complete, or server-sent events; headers go out with the first event."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.headers = headers
        self.started = False

    async def respond(self, response: Response) -> None:
        """Send a complete response; only before the first event."""
        await response(self._scope, self._receive, self._send)

    async def send_whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a complete response in slices, so that a caller that stops reading is noticed."""
        await self._start(status, {**headers, "content-length": str(len(body))})
        for at in range(0, len(body), _SLICE_BYTES):
            await self._send({"type": "http.response.body", "body": body[at : at + _SLICE_BYTES], "more_body": True})
        await self.end()

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Send an event at once."""
        if not self.started:
            await self._start(200, {**_EVENT_HEADERS, **self.headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
