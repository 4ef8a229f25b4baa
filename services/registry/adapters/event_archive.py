"""What the archive of the event log is made of: the stream of facts, its consumers, and segments in the store."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from contracts.event_archive import ArchivedMessage, EventArchive, SegmentIndex
from contracts.services import EVENTS, OPTIONAL, SERVICES, durable_name, filter_subject, stream_of
from decisions.audit import SOURCES
from decisions.event_archive import LogState, message_of
from services.registry.audit import KEY, Messages, Tail
from services.registry.release_records import ReleaseRecords
from shared.provenance.envelopes import Attester, Trust
from shared.provenance.event_archive import SignedIndex, SignedIndexes, put_segment, read_segment
from shared.storage.blobs import Store
from shared.storage.objects import Retention


def _consumers(*, optional: bool) -> dict[str, str]:
    """Return the consumers of the log, of optional services or of all others, with the subjects that they read."""
    return {
        durable_name(service.name, fact, environment): filter_subject(fact, environment)
        for service in SERVICES.values()
        for fact, environment in service.reads
        if stream_of(fact) == EVENTS and (service.name in OPTIONAL) == optional
    }


CONSUMERS = _consumers(optional=False)
"""Consumers whose unread messages stay in the log."""
OPTIONAL_CONSUMERS = _consumers(optional=True)
"""Consumers whose unread messages stay for a while if they have read before: who is never started keeps nothing."""

NO_MESSAGE = 10037
"""The server's code for a message that is not there: the only answer that says that a log ends."""


class StreamEventLog:
    """The stream `SLIPWAY_EVENTS` (implements `event_archive.EventLog`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def state(self) -> LogState:
        """Return how large it is."""
        info = await self._js()._api_request(f"$JS.API.STREAM.INFO.{EVENTS}")  # noqa: SLF001 - the client drops the server's time
        state, limit = info["state"], info["config"].get("max_bytes", -1)
        return LogState(
            first=state["first_seq"],
            last=state["last_seq"],
            messages=state["messages"],
            bytes=state["bytes"],
            limit_bytes=limit if limit > 0 else None,
            bus_at=datetime.fromisoformat(info["ts"]),
        )

    async def read(self, after: int) -> ArchivedMessage | None:
        """Return the first message after a number; None if there is none."""
        try:
            message = await self._js().get_msg(EVENTS, after + 1, subject=">", next=True)
        except NotFoundError as error:
            if error.err_code != NO_MESSAGE:  # there is no such stream, for one: that is no end of the log
                raise
            return None
        assert message.seq is not None and message.time is not None  # noqa: S101, PT018 - the server sends both
        named = (message.headers or {}).get("Nats-Msg-Id", "")
        return message_of(message.seq, message.subject or "", message.time, named, message.data or b"")

    async def unread(self) -> int | None:
        """Return the first number that a service may not have read yet; None if all were read."""
        return await self._first_unread(CONSUMERS)

    async def unsent(self) -> int | None:
        """Return the first number that an optional service may not have read yet if it ever read; None if none."""
        return await self._first_unread(OPTIONAL_CONSUMERS, used=True)

    async def _first_unread(self, consumers: Mapping[str, str], *, used: bool = False) -> int | None:
        """Return the first number that a consumer may not have read yet; with `used`, of those that ever read."""
        numbers = []
        for name, subject in consumers.items():
            info = await self._js().consumer_info(EVENTS, name)
            if (info.num_pending or info.num_ack_pending) and (_has_read(info) or not used):
                numbers.append(await self._first(subject, _acknowledged(info)))
        return min(numbers, default=None)

    async def _first(self, subject: str, after: int) -> int:
        try:
            message = await self._js().get_msg(EVENTS, after + 1, subject=subject, next=True)
        except NotFoundError:
            return after + 1
        return message.seq or after + 1

    async def trim(self, last: int) -> None:
        """Remove all messages up to a number; what is removed already is no error."""
        await self._js().purge_stream(EVENTS, seq=last + 1)


def _has_read(info: ConsumerInfo) -> bool:
    """Return whether a message was ever delivered; what is acknowledged rises by a removal, too."""
    return info.delivered is not None and bool(info.delivered.consumer_seq)


def _acknowledged(info: ConsumerInfo) -> int:
    return (info.ack_floor.stream_seq or 0) if info.ack_floor is not None else 0


class StoredEventSegments:
    """Segments in the object store, put under lock as they are written (implements `event_archive.EventSegments`)."""

    def __init__(
        self, store: Store, attester: Attester, trust: Trust, retention: Callable[[], Retention | None]
    ) -> None:
        """Take the store, the key that signs, the listed keys, and what returns how long a segment is kept."""
        self._store, self._attester, self._trust, self._retention = store, attester, trust, retention
        self._indexes = SignedIndexes(store, trust.keys)

    async def put(self, archive: EventArchive, messages: list[ArchivedMessage]) -> SignedIndex:
        """Write what an archive is sealing, with its signed index, each create-only; return that index."""
        return await asyncio.to_thread(self._put, archive, messages)

    def _put(self, archive: EventArchive, messages: Sequence[ArchivedMessage]) -> SignedIndex:
        keys = self._trust.keys()
        return put_segment(self._store, self._attester, archive, messages, self._retention(), keys=keys)

    async def find(self, archive: EventArchive, number: int) -> SignedIndex | None:
        """Return the signed index of a segment; None if there is none."""
        return await asyncio.to_thread(self._indexes.find, archive.id, number)

    async def read(self, index: SegmentIndex) -> list[ArchivedMessage]:
        """Return the messages of a segment; raise Permanent `digest_mismatch` if they are not those of its index."""
        return await asyncio.to_thread(read_segment, self._store, index)


def first_unaudited(messages: Messages, tail: Tail) -> Callable[[], Awaitable[int | None]]:
    """Return what returns the first number of the log that the audit log has not read; None if it has read all."""

    async def first() -> int | None:
        entry = await tail.get(KEY)
        cursors = entry.value.cursors if entry is not None else {}
        waiting = [
            await messages.read(source, cursors.get(source.name, 0)) for source in SOURCES if source.stream == EVENTS
        ]
        return min((number for entry in waiting if entry is not None for number in (entry[1],)), default=None)

    return first


def oldest_open(records: ReleaseRecords) -> Callable[[], Awaitable[datetime | None]]:
    """Return what returns when the oldest release under way was opened; None if none is."""

    async def oldest() -> datetime | None:
        opened = []
        for model in await records.models():
            for release_id in (await records.model(model)).open:
                release = await records.read(model, release_id)
                if release is not None:
                    opened.append(release.opened_at)
        return min(opened, default=None)

    return oldest
