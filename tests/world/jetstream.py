"""NATS JetStream in memory: streams and buckets as the server keeps them, and the client's calls that services make.

The real adapters, `Bucket`, `RecordStore` and `Bus` run on it; the suites of the real server run on it too
(`test_jetstream.py`).
"""

import asyncio
import bisect
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from nats.errors import NoRespondersError
from nats.js.api import PubAck, RawStreamMsg
from nats.js.errors import BadRequestError, NoStreamResponseError, NotFoundError, ServiceUnavailableError
from nats.js.kv import KeyValue

from contracts.facts import FACTS
from contracts.services import DEADLETTER, DEADLETTER_PREFIX, stream_of
from shared.messaging.topology import BUCKETS, DEDUPE_WINDOW_S, buckets, streams

MAX_PAYLOAD = 8 * 1024 * 1024
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_HISTORY = {f"KV_{config.bucket}": config.history or 1 for config in buckets()}


class Link(Protocol):
    """The way of one process to the server: each request is a step of that process, and may not arrive.

    Attributes:
        gone: Whether the process has ended.
    """

    gone: bool

    async def ask(self, name: str, do: Callable[[], Any], *, changes: bool = False, limit_s: float = 10.0) -> Any:
        """Return what the server answers; raise nats' TimeoutError without an answer."""

    async def reached(self) -> None:
        """Return once something that the server sends has arrived."""


class Direct:
    """A way that is always open."""

    gone = False

    async def ask(self, name: str, do: Callable[[], Any], *, changes: bool = False, limit_s: float = 10.0) -> Any:  # noqa: ARG002
        """Return the answer, after others had their turn."""
        await asyncio.sleep(0)
        return do()

    async def reached(self) -> None:
        """Return at once."""


@dataclass(eq=False)
class Stream:
    """One stream: its messages by sequence, and those of each subject."""

    name: str
    created: datetime
    messages: dict[int, RawStreamMsg] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    ids: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    last: int = 0
    full: bool = False

    def store(self, subject: str, data: bytes, headers: dict[str, str], now: datetime) -> PubAck:
        """Store a message, unless it is a duplicate or its writer has seen another one last."""
        message_id, expected = headers.get("Nats-Msg-Id"), headers.get(_EXPECTED)
        sequence, stored_at = self.ids.get(message_id or "", (0, now))
        if sequence and now - stored_at < timedelta(seconds=DEDUPE_WINDOW_S):
            return PubAck(self.name, sequence, duplicate=True)
        before = self.subjects.get(subject, [])
        last = before[-1] if before else 0
        if expected is not None and int(expected) != last:
            raise BadRequestError(400, f"wrong last sequence: {last}", err_code=10071)
        if self.full:
            raise ServiceUnavailableError(503, "maximum bytes exceeded", err_code=10077)
        self.last += 1
        self.messages[self.last] = RawStreamMsg(
            subject=subject, seq=self.last, data=data, headers=headers or None, stream=self.name, time=now
        )
        self.subjects.setdefault(subject, before).append(self.last)
        if message_id:
            self.ids[message_id] = (self.last, now)
        while len(before) > _HISTORY.get(self.name, len(before)):
            del self.messages[before.pop(0)]
        return PubAck(self.name, self.last)

    def find(self, pattern: str, *, after: int | None = None) -> RawStreamMsg | None:
        """Return the last message on a subject or pattern, or the first one from a sequence on."""
        found = [self.subjects[subject] for subject in self._matching(pattern)]
        if after is None:
            last = max((numbers[-1] for numbers in found if numbers), default=None)
            return None if last is None else self.messages[last]
        begins = [(numbers, bisect.bisect_left(numbers, after)) for numbers in found]
        first = min((numbers[at] for numbers, at in begins if at < len(numbers)), default=None)
        return None if first is None else self.messages[first]

    def purge(self, subject: str, before: int) -> None:
        """Remove the messages of a subject before a sequence."""
        numbers = self.subjects.get(subject, [])
        for number in [number for number in numbers if number < before]:
            numbers.remove(number)
            del self.messages[number]
        if not numbers:
            self.subjects.pop(subject, None)

    def _matching(self, pattern: str) -> list[str]:
        if "*" not in pattern and ">" not in pattern:
            return [pattern] if pattern in self.subjects else []
        return [subject for subject in self.subjects if matches(pattern, subject)]


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject is one of a pattern, as NATS compares them."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(one in ("*", other) for one, other in zip(wanted, given, strict=True))


class Server:
    """The server: it outlives every process.

    Attributes:
        stored: Called with each message that a stream has stored.
        lost: The streams that were made again.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        names = [config.name or "" for config in streams()] + [f"KV_{name}" for name in BUCKETS]
        self.streams = {name: Stream(name, now()) for name in names}
        self.lost: list[str] = []
        self.stored: list[Callable[[RawStreamMsg], None]] = []
        self.listeners: list[tuple[str, Client, Callable[[Any], Any]]] = []

    def publish(self, subject: str, data: bytes, headers: dict[str, str] | None) -> PubAck:
        """Store a message in the stream of its subject."""
        stream = self.streams.get(stream_name(subject))
        if stream is None:
            raise NoStreamResponseError
        answer = stream.store(subject, data, dict(headers or {}), self.now())
        if not answer.duplicate:
            for stored in list(self.stored):
                stored(stream.messages[answer.seq])
        return answer

    def lose(self, name: str) -> None:
        """Make a stream again, without what it held."""
        self.streams[name] = Stream(name, self.now())
        self.lost.append(name)

    def stream(self, name: str) -> Stream:
        """Return a stream; raise NotFoundError without it."""
        if name not in self.streams:
            raise NotFoundError(404, "stream not found", err_code=10059)
        return self.streams[name]


def stream_name(subject: str) -> str:
    """Return the name of the stream that stores a subject; empty if none does."""
    if subject.startswith("$KV."):
        return f"KV_{subject.split('.')[1]}"
    if subject.startswith(f"{DEADLETTER_PREFIX}."):
        return DEADLETTER
    kind = FACTS.get(subject.rsplit(".", 2)[0].replace("slipway.staging.", "slipway.", 1))
    return (kind and stream_of(kind)) or ""


class Client:
    """What a process sees of its connection: plain messages, and whether it is connected."""

    max_payload = MAX_PAYLOAD
    is_connected = True
    _reconnected_cb: Any = None

    def __init__(self, server: Server, link: Link) -> None:
        self._server, self._link = server, link

    @property
    def gone(self) -> bool:
        """Whether its process has ended."""
        return self._link.gone

    async def publish(self, subject: str, data: bytes) -> None:
        """Send a message to those who listen now."""

        def send() -> None:
            self._server.listeners = [each for each in self._server.listeners if not each[1].gone]
            for pattern, client, listen in self._server.listeners:
                if matches(pattern, subject):
                    client.take(listen, subject, data)

        with suppress(NoRespondersError):
            await self._link.ask(f"send {subject}", send)

    async def subscribe(self, subject: str, cb: Callable[[Any], Any]) -> None:
        """Listen to plain messages."""
        self._server.listeners.append((subject, self, cb))

    def take(self, listen: Callable[[Any], Any], subject: str, data: bytes) -> None:
        """Hand a plain message to its listener."""
        asyncio.ensure_future(listen(_Plain(subject, data)))  # noqa: RUF006 - as short as the loop's next round


@dataclass(frozen=True)
class _Plain:
    subject: str
    data: bytes
    reply: str = ""
    headers: None = None


@dataclass(frozen=True)
class _State:
    messages: int
    last_seq: int
    subjects: dict[str, int]


@dataclass(frozen=True)
class _Info:
    created: datetime
    state: _State


class JetStream:
    """JetStream as one process has it (the part of `JetStreamContext` that services use)."""

    def __init__(self, server: Server, link: Link | None = None) -> None:
        self.server, self.link = server, link or Direct()
        self._nc = Client(server, self.link)

    async def publish(
        self, subject: str, payload: bytes = b"", timeout: float | None = None, headers: Any = None, **_: Any
    ) -> PubAck:
        """Store a message; raise what the server's refusal is, or TimeoutError without an answer."""
        ask = self.link.ask
        store = lambda: self.server.publish(subject, payload, headers)  # noqa: E731
        answer: PubAck = await ask(f"publish {subject}", store, changes=True, limit_s=timeout or 10.0)
        return answer

    async def get_msg(
        self,
        stream: str,
        seq: int | None = None,
        subject: str | None = None,
        next: bool = False,  # noqa: A002 - of nats-py
        **_: Any,
    ) -> RawStreamMsg:
        """Return a message by its sequence, the last one on a subject, or the next one there."""

        def look() -> RawStreamMsg:
            there = self.server.stream(stream)
            if next:
                found = there.find(subject or ">", after=seq or 1)
            else:
                found = there.find(subject) if subject else there.messages.get(seq or 0)
            if found is None:
                raise NotFoundError(404, "no message found", err_code=10037)
            return found

        message: RawStreamMsg = await self.link.ask(f"get {stream} {subject or seq}", look)
        return message

    async def get_last_msg(self, stream: str, subject: str) -> RawStreamMsg:
        """Return the last message on a subject."""
        return await self.get_msg(stream, subject=subject)

    async def stream_info(self, name: str, subjects_filter: str | None = None) -> _Info:
        """Return what a stream holds."""

        def look() -> _Info:
            stream = self.server.stream(name)
            listed = {s: len(found) for s, found in stream.subjects.items() if subjects_filter and found}
            return _Info(stream.created, _State(len(stream.messages), stream.last, listed))

        info: _Info = await self.link.ask(f"info {name}", look)
        return info

    async def purge_stream(self, name: str, seq: int, subject: str) -> None:
        """Remove what a subject had before a sequence."""
        await self.link.ask(f"purge {subject}", lambda: self.server.stream(name).purge(subject, seq), changes=True)

    async def key_value(self, name: str) -> KeyValue:
        """Return a bucket; raise NotFoundError without it."""
        await self.link.ask(f"info KV_{name}", lambda: self.server.stream(f"KV_{name}"))
        return _Followed(name, f"KV_{name}", f"$KV.{name}.", self, direct=False)  # type: ignore[arg-type]

    async def _api_request(self, subject: str, request: bytes = b"", **_: Any) -> dict[str, Any]:
        """Return the time of the server, or the first message on a subject since a time."""
        name = subject.rpartition(".")[2]

        def answer() -> dict[str, Any]:
            asked, stream = json.loads(request or b"{}"), self.server.stream(name)
            if "next_by_subj" not in asked:
                return {"ts": self.server.now().isoformat()}
            since = datetime.fromisoformat(asked["start_time"])
            for number in stream.subjects.get(asked["next_by_subj"], ()):
                if (stream.messages[number].time or since) >= since:
                    return {"message": {"seq": number}}
            raise NotFoundError(404, "no message found", err_code=10037)

        answered: dict[str, Any] = await self.link.ask(f"ask {subject}", answer)
        return answered


class _Followed(KeyValue):
    """A bucket whose changes can be followed."""

    async def watchall(self, **_: Any) -> "_Watcher":  # type: ignore[override]
        """Return the records as they are now, None, and each change from then on."""
        js: Any = self._js
        return _Watcher(js, self._stream, self._pre)


class _Watcher:
    def __init__(self, js: JetStream, stream: str, prefix: str) -> None:
        self._js, self._prefix, self._stream = js, prefix, stream
        self._queue: asyncio.Queue[RawStreamMsg | None] = asyncio.Queue()
        there = js.server.stream(stream)
        for number in sorted(numbers[-1] for numbers in there.subjects.values() if numbers):
            self._queue.put_nowait(there.messages[number])
        self._queue.put_nowait(None)
        js.server.stored.append(self._note)

    def _note(self, message: RawStreamMsg) -> None:
        if self._js.link.gone:
            self._js.server.stored.remove(self._note)
        elif message.stream == self._stream:
            self._queue.put_nowait(message)

    def __aiter__(self) -> "_Watcher":
        return self

    async def __anext__(self) -> KeyValue.Entry | None:
        message = await self._queue.get()
        if message is None:
            return None
        await self._js.link.reached()
        key = (message.subject or "").removeprefix(self._prefix)
        return KeyValue.Entry(self._stream, key, message.data, message.seq, None, None, None)

    async def stop(self) -> None:
        if self._note in self._js.server.stored:
            self._js.server.stored.remove(self._note)
