"""The streams of the bus with what was removed from the event log, which the archive in the store has."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from contracts.event_archive import KEY, ArchivedMessage, EventArchive, EventGroup, SegmentIndex
from contracts.services import EVENTS
from decisions.event_archive import body_of
from services.console.adapters.log import RETRY_S, StreamLog
from services.console.domain.logged import Logged, read_logged
from shared.errors import translate
from shared.provenance.envelopes import Trust
from shared.provenance.event_archive import SignedIndexes, count_removed, read_model, read_segment
from shared.storage.blobs import Store
from shared.storage.kv import Bucket

PIECE: Final = 500
"""Messages of the archive that are returned at once."""


class WholeLog:
    """Reads the streams; of the event log, what was removed from it is read from the archive first.

    Args:
        log: The streams.
        record: Returns the record of how far the log is archived, once the bus is connected.
        store: The store.
        trust: Keys of attesters.
        retry_s: How long it waits after an error.
    """

    def __init__(
        self,
        log: StreamLog,
        record: Callable[[], Bucket[EventArchive]],
        store: Store,
        trust: Trust,
        retry_s: float = RETRY_S,
    ) -> None:
        self._log, self._record, self._retry_s = log, record, retry_s
        self._indexes = SignedIndexes(store, trust.keys)
        self._next: int | None = None
        self._segment: tuple[SegmentIndex, Sequence[ArchivedMessage]] | None = None

    async def identity(self, stream: str) -> tuple[str, int]:
        """Return when a stream was made, and its last sequence; wait until the bus answers."""
        return await self._log.identity(stream)

    async def read(self, stream: str, start: int, wait_s: float) -> tuple[int, Sequence[Logged]]:
        """Return the next sequence after what was read, and what the log has from `start` on; none after `wait_s`."""
        if stream != EVENTS:
            return await self._log.read(stream, start, wait_s)
        try:
            read = await self._archived(start) if start != self._next else None
            if read is None:
                self._next, events = await self._log.read(stream, start, wait_s)
                whole = [event for number, event in enumerate(events, start) if event.sequence == number]
                if len(whole) == len(events):
                    return self._next, events
                if whole:  # the log was trimmed while it was read: what follows is looked for from here on
                    self._next = None
                    return start + len(whole), whole
                read = await self._archived(start) or (self._next, events)  # else they were removed by hand
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            structlog.get_logger().warning("the archive of the event log cannot be read", reason=known.reason)
            self._next = None
            await asyncio.sleep(self._retry_s)
            return start, ()
        return read

    async def of_model(
        self,
        model: str,
        groups: Sequence[EventGroup],
        *,
        since: datetime | None = None,
        last: Callable[[ArchivedMessage], bool] | None = None,
        most: int | None = None,
    ) -> Sequence[ArchivedMessage]:
        """Return what was removed from the event log of a model, in the order of the log, as `read_model` does.

        Raises:
            Permanent: A segment is gone, or not what was signed; there are more than `most`.
            Transient: The store does not answer.
        """
        archive = await self._archive(await self._log.first(EVENTS))
        if archive is None:
            return ()
        cancelled = threading.Event()
        read = partial(read_model, since=since, last=last, most=most, cancelled=cancelled.is_set)
        try:
            return await asyncio.to_thread(read, self._indexes, archive, model, groups)
        finally:  # who waits for it may have ended; the thread does not end with it
            cancelled.set()

    async def aclose(self) -> None:
        """Remove all consumers."""
        await self._log.aclose()

    async def _archived(self, start: int) -> tuple[int, Sequence[Logged]] | None:
        """Return the next piece of the archive from a sequence on; None if the stream has it."""
        if self._segment is None or not self._segment[0].first <= start <= self._segment[0].last:
            self._segment = None
            index = await self._find(start)
            if index is None:
                return None
            self._segment = index, await asyncio.to_thread(read_segment, self._indexes.store, index)
        index, messages = self._segment
        piece = [message for message in messages if message.sequence >= start][:PIECE]
        after = piece[-1].sequence + 1 if len(piece) == PIECE else index.last + 1
        return after, [read_logged(EVENTS, message.sequence, message.subject, body_of(message)) for message in piece]

    async def _archive(self, first: int) -> EventArchive | None:
        """Return how far the log, which begins with a number, is archived and trimmed; None if it is not archived."""
        entry = await self._record().get(KEY)
        if entry is None:
            return None
        return await asyncio.to_thread(count_removed, self._indexes, entry.value, first)

    async def _find(self, start: int) -> SegmentIndex | None:
        """Return the index of the trimmed segment with a sequence; None if the stream has it."""
        first_of_log = await self._log.first(EVENTS)
        archive = await self._archive(first_of_log) if start < first_of_log else None
        if archive is None:
            return None
        low, high, first = 1, archive.trimmed, None
        while low <= high:
            middle = (low + high) // 2
            index = await asyncio.to_thread(self._indexes.require, archive.id, middle)
            if index.last >= start:
                first, high = index, middle - 1
            else:
                low = middle + 1
        return first
