"""The small pieces of HTTP that the gateway needs beyond Starlette."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.backlog import SlowReader
from services.gateway.domain.errors import Problem, Refused

ABORT: Final = "slipway.abort"
"""The extension of the ASGI scope that ends the connection at once."""
_CLOSE: Final = {"Connection": "close"}


@dataclass
class _Reading:
    """A body that is being read."""

    timeout: asyncio.Timeout
    size: int = 0
    evicted: bool = False


class Bodies:
    """Reads the bodies of requests: within a time, and only so many, of so many bytes in all, at once.

    Where another one comes, the oldest that is still being read gives way: a whole body takes milliseconds, so those
    that have been read for longest are the slow ones, and they keep no other caller out.
    """

    def __init__(self, *, max_bytes: int, deadline_s: float = 30.0, most: int = 256, all_bytes: int = 2**26) -> None:
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._most = most
        self._all_bytes = all_bytes
        self._readings: list[_Reading] = []  # the oldest first

    async def read(self, request: Request) -> bytes:
        """Read a body.

        Raises:
            Refused: 413 when it is longer than may be; 408 when it takes too long, or gave way to others. The rest is
                not read, and the connection ends.
            ClientDisconnect: the caller went away.
        """
        if _declared(request) > self._max_bytes:
            raise self._too_large()
        if len(self._readings) >= self._most:
            self._evict()
        chunks: list[bytes] = []
        timeout = asyncio.timeout(self._deadline_s)
        reading = _Reading(timeout)
        self._readings.append(reading)
        try:
            async with timeout:
                async for chunk in request.stream():
                    reading.size += len(chunk)
                    if reading.size > self._max_bytes:
                        raise self._too_large()
                    chunks.append(chunk)
                    while sum(one.size for one in self._readings if not one.evicted) > self._all_bytes:
                        self._evict()
        except TimeoutError:
            raise self._too_slow(reading) from None
        finally:
            self._readings.remove(reading)
        return b"".join(chunks)

    def _evict(self) -> None:
        oldest = next((one for one in self._readings if not one.evicted), None)
        if oldest is not None:
            oldest.evicted = True
            if not oldest.timeout.expired():  # else it ends without this, and takes no other time
                oldest.timeout.reschedule(0.0)

    def _too_large(self) -> Refused:
        message = f"The body is longer than {self._max_bytes} bytes."
        return Refused(Problem(413, message, code="request_too_large", headers=_CLOSE))

    def _too_slow(self, reading: _Reading) -> Refused:
        message = (
            f"After {reading.size} bytes the body gave way to others that came whole; send it again, faster."
            if reading.evicted
            else f"The body did not come within {self._deadline_s:g} s: {reading.size} bytes of it did; send it faster."
        )
        return Refused(Problem(408, message, code="request_too_slow", headers=_CLOSE))


def _declared(request: Request) -> int:
    """Return the length that a request declares; 0 without one. The server has checked that it is a number."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def limit_writes(send: Send, limit_s: float) -> Send:
    """Return `send` under a time limit for each message, so that a caller who does not read keeps no place.

    Raises (the function that is returned):
        SlowReader: the caller took nothing for so long.
    """

    async def limited(message: Message) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await send(message)
        except TimeoutError:
            raise SlowReader(f"The caller read nothing for {limit_s:g} s.") from None

    return limited


async def drop(scope: Scope) -> None:
    """End a connection at once, without waiting for what was written to be read; nothing where the server cannot."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # the server notes the end before the application returns


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a problem in OpenAI's shape."""
    return JSONResponse(problem.body(), problem.status, headers={**(headers or {}), **problem.headers})


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run the work, and cancel it as soon as the caller goes away; returns when it has really ended."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
    if not task.cancelled():
        task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Reply:
    """The answer to one request: one response, or server-sent events, the headers with the first of them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.labels = headers
        self._headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # proxies must pass each token on
            **headers,
        }
        self.started = False

    async def respond(self, response: Response) -> None:
        """Send a whole response; nothing may have been written before."""
        await response(self._scope, self._receive, self._send)

    async def write(self, data: bytes) -> None:
        """Send bytes of an event now."""
        if not self.started:
            self.started = True
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
