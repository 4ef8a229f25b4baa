"""The small pieces of HTTP that the gateway needs beyond Starlette."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Send

from .domain.errors import Problem, Refused


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        Refused: 413 when it is longer; the rest is not read.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise Refused(Problem(413, f"The body is longer than {limit} bytes.", code="request_too_large"))
        chunks.append(chunk)
    return b"".join(chunks)


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


class EventStream:
    """Server-sent events, the headers with the first of them."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # proxies must pass each token on
            **headers,
        }
        self.started = False

    async def write(self, data: bytes) -> None:
        """Send bytes now."""
        if not self.started:
            self.started = True
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
