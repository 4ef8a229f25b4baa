"""Archives the event log: seals segments of it into the store, and removes from the log what is archived and old."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from contracts.event_archive import KEY, ArchivedMessage, EventArchive, SegmentIndex
from decisions.event_archive import (
    SEGMENT_BYTES,
    SEGMENT_EVENTS,
    Keeping,
    LogState,
    Needs,
    advance,
    body_of,
    is_due,
    is_full,
    trim,
    why_kept,
)
from shared.errors import Permanent, Transient
from shared.provenance.event_archive import SignedIndex
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.storage.kv import Conflict, Entry


class EventLog(Protocol):
    """The stream of facts."""

    async def state(self) -> LogState:
        """Return how large it is."""

    async def read(self, after: int) -> ArchivedMessage | None:
        """Return the first message after a number; None if there is none."""

    async def unread(self) -> int | None:
        """Return the first number that a service may not have read yet; None if all were read."""

    async def unsent(self) -> int | None:
        """Return the first number that an optional service may not have read yet if it ever read; None if none."""

    async def trim(self, last: int) -> None:
        """Remove all messages up to a number; what is removed already is no error."""


class Record(Protocol):
    """The record of how far the log is archived."""

    async def get(self, key: str) -> Entry[EventArchive] | None:
        """Return it; None if there is none."""

    async def create(self, key: str, value: EventArchive) -> int:
        """Write it for the first time; raise `kv.Conflict` if it is there."""

    async def update(self, key: str, value: EventArchive, revision: int) -> int:
        """Write it if it is still at a revision; raise `kv.Conflict` else."""


class EventSegments(Protocol):
    """The segments in the object store."""

    async def put(self, archive: EventArchive, messages: list[ArchivedMessage]) -> SignedIndex:
        """Write what an archive is sealing, with its signed index, each create-only; return that index.

        Raises:
            Permanent: `digest_mismatch` if another segment is there.
        """

    async def find(self, archive: EventArchive, number: int) -> SignedIndex | None:
        """Return the signed index of a segment; None if there is none. One by a revoked key may be unproven.

        Raises:
            Permanent: It is not one that the registry signed.
        """

    async def read(self, index: SegmentIndex) -> list[ArchivedMessage]:
        """Return the messages of a segment; raise Permanent `digest_mismatch` if they are not those of its index."""


@dataclass(frozen=True)
class Retain:
    """How long a message is in the log: archived after `every` at the latest, and kept by `keeping`."""

    every: timedelta
    keeping: Keeping


@dataclass(frozen=True)
class EventArchiver:
    """One archive with one record: several registries write it in turns.

    A segment is marked in the record, written, indexed, and then counted in the record: killed in between, the same
    messages are written under the same number again. Messages are removed from the log after their segment was read
    back from the store, and counted afterwards: killed in between, the same removal is done again.

    Attributes:
        oldest_release: Returns when the oldest release under way was opened; None if none is.
        unaudited: Returns the first number of the log that the audit log has not read; None if it has read all.
    """

    log: EventLog
    record: Record
    segments: EventSegments
    oldest_release: Callable[[], Awaitable[datetime | None]]
    unaudited: Callable[[], Awaitable[int | None]]
    retain: Retain
    clock: Clock

    async def keys(self) -> list[str]:
        """Return the one record."""
        return [KEY]

    async def sweep(self, _key: str) -> None:
        """Archive what is due, then trim what may be removed. Another process that was first is no error."""
        try:
            while await self._step():
                pass
        except Conflict:
            structlog.get_logger().info("another registry archives the event log")

    async def _step(self) -> bool:
        """Do one thing; return whether there may be another one."""
        entry = await self.record.get(KEY)
        if entry is None:
            await self.record.create(KEY, EventArchive(id=secrets.token_hex(8)))
            return True
        archive, log = entry.value, await self.log.state()
        if log.last < archive.archived:
            raise _another_log(f"The archive {archive.id} ends at {archive.archived}, the log at {log.last}")
        signed = await self.segments.find(archive, archive.segment)
        if signed is not None:
            await self._adopt(entry, signed, log)
            return True
        if archive.sealing:
            await self._seal(entry, await self._read(archive.archived, archive.sealing, whole=True))
            return True
        oldest = await self.log.read(archive.archived)
        if is_due(archive, log, oldest.at if oldest is not None else None, self.clock.now(), self.retain.every):
            messages = await self._read(archive.archived, log.last)
            if not messages:  # removed by hand meanwhile
                return False
            marked = archive.model_copy(update={"sealing": messages[-1].sequence})
            revision = await self.record.update(KEY, marked, entry.revision)
            failpoint("registry.archive_after_mark")
            await self._seal(Entry(marked, revision), messages)
            return True
        return await self._trim(entry, log)

    async def _seal(self, entry: Entry[EventArchive], messages: list[ArchivedMessage]) -> None:
        """Write the marked segment and count it; a mark whose messages were all removed by hand is dropped.

        Raises:
            Transient: `bus_unavailable`: the log was not read up to the mark.
        """
        archive = entry.value
        last = messages[-1].sequence if messages else archive.archived
        if last < archive.sealing and (messages or (await self.log.state()).first <= archive.sealing):
            reason = f"The event log was read up to {last}, not up to the mark {archive.sealing}; it is tried again."
            raise Transient("bus_unavailable", reason)
        if messages:
            signed = await self.segments.put(archive, messages)
            failpoint("registry.archive_after_segment")
            archive = advance(archive, signed.index, signed.anchor)
        else:
            archive = archive.model_copy(update={"archived": archive.sealing, "sealing": 0})
        await self.record.update(KEY, archive, entry.revision)
        failpoint("registry.archive_after_count")

    async def _adopt(self, entry: Entry[EventArchive], signed: SignedIndex, log: LogState) -> None:
        """Count a segment that is in the store: of a process that ended then, or from before a restore.

        One by a key that was revoked since is sealed again: it stays if it is the very same.

        Raises:
            Permanent: `digest_mismatch`: it does not follow, or the log has other events. `key_not_trusted`: it is by a
                revoked key, and the log does not have all of its events to prove it.
        """
        archive, index = entry.value, signed.index
        another = _another_log(f"Segment {index.number} of the archive {archive.id} has other events than the log")
        if (signed.previous, index.first) != (archive.anchor, archive.archived + 1) or index.last > log.last:
            raise another
        if signed.unproven is not None and log.first <= index.first:
            marked = Entry(archive.model_copy(update={"sealing": index.last}), entry.revision)
            await self._seal(marked, await self._read(archive.archived, index.last, whole=True))
            return
        stored = [message for message in await self.segments.read(signed.proven()) if message.sequence >= log.first]
        if stored != await self._read(max(archive.archived, log.first - 1), index.last, whole=True):
            raise another
        await self.record.update(KEY, advance(archive, index, signed.anchor), entry.revision)

    async def _read(self, after: int, last: int, *, whole: bool = False) -> list[ArchivedMessage]:
        """Return the messages after a number up to another one; unless `whole`, not more than a segment has."""
        messages: list[ArchivedMessage] = []
        size = 0
        while after < last and (message := await self.log.read(after)) is not None and message.sequence <= last:
            size += len(body_of(message))
            if messages and not whole and (len(messages) == SEGMENT_EVENTS or size > SEGMENT_BYTES):
                break
            messages.append(message)
            after = message.sequence
        return messages

    async def _has_all(self, messages: list[ArchivedMessage], last: int) -> bool:
        """Return whether archived messages are all that the log has up to a number; it may have fewer.

        Raises:
            Transient: `bus_unavailable`: the log was not read up to this number.
        """
        archived, read = {message.sequence: message for message in messages}, [0]
        while (message := await self.log.read(read[-1])) is not None and message.sequence <= last:
            if archived.get(message.sequence) != message:
                return False
            read.append(message.sequence)
        if message is None:
            log = await self.log.state()
            is_whole = sum(number >= log.first for number in read[1:]) == log.messages
            if not is_whole and await self.log.read(read[-1]) is None:  # else one was published meanwhile
                reason = f"The event log was read up to {read[-1]}, not up to {last}; it is tried again."
                raise Transient("bus_unavailable", reason)
        return True

    async def _trim(self, entry: Entry[EventArchive], log: LogState) -> bool:
        """Remove the messages of the oldest segment that is still in the log, if they may be; return whether."""
        archive = entry.value
        number = archive.trimmed + 1
        if number >= archive.segment:
            return False
        signed = await self.segments.find(archive, number)
        if signed is None:
            raise Permanent(
                "artifact_not_found", f"Segment {number} of the archive {archive.id} is gone; see a backup."
            )
        index, now = signed.proven(), self.clock.now()
        why = why_kept(index, log, Needs(None, None), self.retain.keeping, now)
        if why is None:
            unread = [
                sequence for sequence in (await self.log.unread(), await self.unaudited()) if sequence is not None
            ]
            needs = Needs(await self.oldest_release(), min(unread, default=None), await self.log.unsent())
            why = why_kept(index, log, needs, self.retain.keeping, now)
        if why is not None:
            if is_full(log, self.retain.keeping):
                structlog.get_logger().warning("event log nearly full, and not trimmed", needed_by=why, bytes=log.bytes)
            return False
        messages = await self.segments.read(index)
        if not await self._has_all(messages, index.last):
            raise _another_log(f"The log has events up to {index.last} that no segment of the archive {archive.id} has")
        failpoint("registry.archive_before_trim")
        await self.log.trim(index.last)
        failpoint("registry.archive_after_trim")
        await self.record.update(KEY, trim(archive, index, messages), entry.revision)
        structlog.get_logger().info("event log trimmed", up_to=index.last, segment=number)
        return True


def _another_log(difference: str) -> Permanent:
    return Permanent("digest_mismatch", f"{difference}; nothing is archived or trimmed. See docs/operations.md.")
