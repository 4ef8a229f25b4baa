"""Writer of the audit log: appends messages from the bus, and seals entries into signed segments in the store."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from contracts.facts import AlertRaised, AlertResolved
from contracts.provenance.audit import AuditEntry, AuditItem, AuditTail
from decisions.evidence.alerts import A
from decisions.sealed_log.audit import LOST, SOURCES, Source, append, is_due, lost_item, missing_item, seal
from services.registry.adapters.audit import StoredSegments
from shared.errors import Permanent
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.storage.kv import Conflict, Entry

KEY = "tail"
STOPPED = "stopped"
"""Key of the record with the reason why the log is stopped; the record is empty while the log continues."""
BATCH = 16
"""Maximum messages of one source per step."""


class Messages(Protocol):
    """The streams of the bus, read by sequence number."""

    async def read(self, source: Source, after: int) -> tuple[AuditItem, int] | None:
        """Return the first message of a source after a sequence number, and its own number; None at the end."""


class Tail(Protocol):
    """Records of unsealed entries."""

    async def get(self, key: str) -> Entry[AuditTail] | None:
        """Return a record; None if there is none."""

    async def create(self, key: str, value: AuditTail) -> int:
        """Create a record; raise `kv.Conflict` if it exists."""

    async def update(self, key: str, value: AuditTail, revision: int) -> int:
        """Replace a record at a revision; raise `kv.Conflict` if the record has changed since."""


class Alerts(Protocol):
    """Alerts about lost entries of the log: one per model."""

    async def publish(self, fact: type[A], entry: AuditEntry) -> None:
        """Raise or resolve an entry's alerts; the bus drops repeated alerts."""


@dataclass(frozen=True)
class AuditWriter:
    """Writes the log, one record shared by all replicas: compare-and-set keeps each message unique.

    Entries and cursors change in one write. A segment is marked in the record, stored, then cleared from the record:
    after a crash in between, the next writer stores the same entries under the same number.
    """

    messages: Messages
    tail: Tail
    segments: StoredSegments
    alerts: Alerts
    clock: Clock
    _raised: set[tuple[int, datetime]] = field(default_factory=set)

    async def keys(self) -> list[str]:
        """Return the key of the log's record, for the sweeper."""
        return [KEY]

    async def sweep(self, _key: str) -> None:
        """Append new messages and seal a due segment; stop without an error when another replica wrote first."""
        try:
            while await self._step():
                pass
        except Conflict:
            structlog.get_logger().info("another registry writes the audit log")

    async def _step(self) -> bool:
        """Resume, append or seal once; return whether another step may be due."""
        entry = await self.tail.get(KEY)
        if entry is None and (resumed := await self._resume()) is not None:
            await self._write(resumed, None)
            return True
        tail = entry.value if entry is not None else AuditTail()
        if tail.sealing:
            anchor = await self.segments.put(tail)
            failpoint("registry.audit_after_segment")
            await self._resolve(tail.entries[: tail.sealing])
            await self._note_going_on()
            await self._write(seal(tail, anchor), entry)
            return True
        await self._raise(tail.entries)
        if is_due(tail, self.clock.now()):
            await self._write(tail.model_copy(update={"sealing": len(tail.entries)}), entry)
            failpoint("registry.audit_after_mark")
            return True
        after = tail
        for source in SOURCES:
            after = await self._read(source, after)
        if after is tail:
            return False
        await self._write(after, entry)
        failpoint("registry.audit_after_append")
        return True

    async def _resume(self) -> AuditTail | None:
        """Rebuild the log from its segments after its record was lost; None without segments.

        Raises:
            Permanent: A segment is missing as well; an alert is open until the log continues.
        """
        try:
            tail = await self.segments.resume(self.clock.now())
        except Permanent as error:
            await self._note_stopped(error.reason)
            raise
        if tail is not None:
            structlog.get_logger().error("the record of the audit log was lost", reason=tail.entries[-1].reason)
            await self._note_going_on()
        return tail

    async def _note_stopped(self, reason: str) -> None:
        before = await self.tail.get(STOPPED)
        stopped = before.value if before is not None else AuditTail()
        if not stopped.entries:
            stopped = append(AuditTail(), [lost_item(reason, self.clock.now())], {})
            await self._put(STOPPED, stopped, before)
        await self._raise(stopped.entries)

    async def _note_going_on(self) -> None:
        before = await self.tail.get(STOPPED)
        if before is not None and before.value.entries:
            await self._resolve(before.value.entries)
            await self._put(STOPPED, AuditTail(), before)

    async def _raise(self, entries: Iterable[AuditEntry]) -> None:
        """Raise an alert for each stored entry that reports lost messages, once per process."""
        for entry in entries:
            if entry.action == LOST and (entry.index, entry.at) not in self._raised:
                await self.alerts.publish(AlertRaised, entry)
                self._raised.add((entry.index, entry.at))

    async def _resolve(self, entries: Iterable[AuditEntry]) -> None:
        for entry in entries:
            if entry.action == LOST:
                await self.alerts.publish(AlertResolved, entry)

    async def _read(self, source: Source, tail: AuditTail) -> AuditTail:
        """Append the next messages of a source to the log; a gap in the sequence becomes an entry as well."""
        cursor = tail.cursors.get(source.name, 0)
        items: list[AuditItem] = []
        for _ in range(BATCH):
            message = await self.messages.read(source, cursor)
            if message is None:
                break
            item, number = message
            if source.whole and number > cursor + 1:
                items.append(missing_item(source, cursor + 1, number - 1, item.at))
            items.append(item)
            cursor = number
        return append(tail, items, {source.name: cursor}) if items else tail

    async def _write(self, tail: AuditTail, before: Entry[AuditTail] | None) -> None:
        await self._put(KEY, tail.model_copy(update={"signature": self.segments.sign(tail)}), before)

    async def _put(self, key: str, tail: AuditTail, before: Entry[AuditTail] | None) -> None:
        if before is None:
            await self.tail.create(key, tail)
        else:
            await self.tail.update(key, tail, before.revision)
