"""A small HTTP client for measurements: one connection for one request at a time, and the time of each part."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httptools

TIMEOUT_S = 120.0
Part = tuple[float, bytes]
"""When it arrived (`time.perf_counter`), and its bytes."""


@dataclass
class Reply:
    """An answer: when its request was sent (`time.perf_counter`), its status, and its parts as they arrived."""

    sent_s: float
    status: int = 0
    parts: list[Part] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.parts)


class Connection(asyncio.Protocol):
    """One kept connection; the callbacks are those of httptools' parser."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reply = Reply(0.0)
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._reply.status = 0

    def on_headers_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._reply.parts.append((self._now, body))

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    async def post(self, request: bytes) -> Reply:
        """Send a whole request and return the whole answer."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._reply = Reply(time.perf_counter())
        self._transport.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            await self._done
        self._done = None
        return self._reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


def build_request(path: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a POST request with a JSON body."""
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(data)}",
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def first_text_s(parts: Sequence[Part]) -> float | None:
    """Return when the first event with text of a streamed chat arrived; None if there is none."""
    rest = b""
    for at_s, data in parts:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                choices = json.loads(line.removeprefix(b"data: ")).get("choices")
                if choices and choices[0]["delta"].get("content"):
                    return at_s
    return None
