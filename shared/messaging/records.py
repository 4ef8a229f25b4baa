"""The one record store with an outbox: what is decided is written with the record, then published, then cleared."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

import structlog

from contracts.facts import FACTS
from contracts.records import OutboxEntry, OutboxRecord
from shared.errors import Transient, translate
from shared.messaging.publishing import Emit
from shared.messaging.topology import DEDUPE_WINDOW_S
from shared.runtime.clock import Boottime, boottime
from shared.runtime.failpoints import failpoint
from shared.storage.compare_and_set import (
    Jitter,
    Records,
    Sleep,
    check_not_newer,
    edit_record,
    failing_as_transient,
)
from shared.storage.kv import Entry

R = TypeVar("R", bound=OutboxRecord)
_KNOWN_UNPUBLISHED_S = DEDUPE_WINDOW_S / 2
"""So long after a write its facts are published without a search of the log. The rest of the dedupe window is for the
publish itself, which takes up to a minute."""


class Publisher(Protocol):
    """Publishes facts, and looks up whether they were published."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has it. The same id within the dedupe window is stored once.

        Raises:
            Transient: `bus_unavailable` if the stream does not have it.
        """

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the stream has the fact of this id, decided at `since`, however long ago that was."""

    def count_unpublishable(self, fact_type: str) -> None:
        """Count a fact that was refused for good; its record is what publishes it, if ever."""


@dataclass(frozen=True)
class _Written(Generic[R]):
    """A record after its decision.

    Attributes:
        left_over: The ids that were in its outbox before: perhaps published already.
        at_s: When the last decision was made, just before its write.
    """

    entry: Entry[R] | None
    left_over: frozenset[str]
    at_s: float


class RecordStore(Generic[R]):
    """Records of one kind, each under a key, with what they have yet to publish.

    A change that returned is written, and its facts are in the stream. Every failure to get there is one `Transient`
    with a code: the caller's message comes again, the decision finds itself made, and the rest is done. Errors that
    `decide` raises pass through; nothing is written then.

    One exception: a written fact that cannot be published (too large, unknown to this release) fails no caller, because
    no message delivered again would change that. It stays in the outbox with those behind it, is logged and counted,
    and is tried again by the next change or sweep of its record.
    """

    def __init__(
        self,
        name: str,
        records: Records[R],
        publisher: Publisher,
        *,
        service: str,
        jitter: Jitter = random.random,
        sleep: Sleep = asyncio.sleep,
        boottime: Boottime = boottime,
    ) -> None:
        self.name = name
        self._records = records
        self._publisher = publisher
        self._service = service
        self._jitter = jitter
        self._sleep = sleep
        self._boottime = boottime
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def read(self, key: str) -> R | None:
        """Return a record as it is now; None if there is none.

        Raises:
            Transient: The record could not be read, or a newer version wrote it (`record_too_new`): its caller
                decides on it, and would decide without the fields that it does not know.
        """
        with failing_as_transient(self._name_of(key), "read"):
            entry = await self._records.get(key)
        check_not_newer(entry, self._name_of(key))
        return entry.value if entry else None

    async def keys(self) -> list[str]:
        """Return the keys of all records of the bucket."""
        with failing_as_transient(self._name_of("*"), "listed"):
            return await self._records.keys()

    @overload
    async def transact(self, key: str, decide: Callable[[R | None], R]) -> R: ...
    @overload
    async def transact(self, key: str, decide: Callable[[R | None], R | None]) -> R | None: ...
    async def transact(self, key: str, decide: Callable[[R | None], R | None]) -> R | None:
        """Read a record, decide, write it by compare-and-set, publish its outbox, clear the outbox.

        Args:
            key: The record.
            decide: A pure function from the record (None: there is none) to the record as it is to be. What equals
                the record that it was given is not written. It is called again after a conflict.

        Returns:
            The record after it all.

        Raises:
            Transient: The record could not be read or written, or a fact not published for now. What was written
                stands; the next `transact`, `publish` or sweep of this key goes on from there.
        """
        async with self._lock(key):
            return await self._publish(key, await self._write(key, decide))

    @overload
    async def write(self, key: str, decide: Callable[[R | None], R]) -> R: ...
    @overload
    async def write(self, key: str, decide: Callable[[R | None], R | None]) -> R | None: ...
    async def write(self, key: str, decide: Callable[[R | None], R | None]) -> R | None:
        """Do the first half of `transact`: `publish` is the second.

        For what must be acted on even while nothing can be published.
        """
        async with self._lock(key):
            entry = (await self._write(key, decide)).entry
        return entry.value if entry else None

    async def publish(self, key: str) -> R | None:
        """Publish and clear what a record has in its outbox; return the record with what could not be published."""
        return await self.transact(key, lambda record: record)

    def _lock(self, key: str) -> asyncio.Lock:
        """Return the lock of a key: writers of one process take turns, first come first served."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def _write(self, key: str, decide: Callable[[R | None], R | None]) -> _Written[R]:
        before: R | None = None
        at_s = self._boottime()

        def note_and_decide(record: R | None) -> R | None:
            nonlocal before, at_s
            before, at_s = record, self._boottime()
            return decide(record)

        entry = await self._edit(key, note_and_decide)
        left_over = frozenset(pending.id for pending in before.outbox) if before else frozenset()
        return _Written(entry, left_over, at_s)

    async def _publish(self, key: str, written: _Written[R]) -> R | None:
        """Publish the outbox in its order, then clear it.

        What stood there before may have been published longer ago than the stream's dedupe window remembers. So may
        all of it when this process stood still since its write (stopped, or suspended with its machine): another one
        has published and cleared it. Either is looked up in the log first, so that each fact is stored once.
        """
        entry = written.entry
        if entry is None or not entry.value.outbox:
            return entry.value if entry else None
        published: set[str] = set()
        for pending in entry.value.outbox:
            doubtful = pending.id in written.left_over or self._boottime() - written.at_s > _KNOWN_UNPUBLISHED_S
            if not await self._publish_one(key, pending, doubtful=doubtful):
                break
            published.add(pending.id)
        failpoint(f"{self._service}.after_publish")
        cleared = await self._edit(key, lambda record: record and _without(record, frozenset(published)), known=entry)
        return cleared.value if cleared else None

    async def _publish_one(self, key: str, pending: OutboxEntry, *, doubtful: bool) -> bool:
        """Return True once the stream has a fact, False if it was refused for good; raise Transient otherwise."""
        name = self._name_of(key)
        try:
            emit = _emit(pending)
            if not (doubtful and await self._publisher.was_published(emit, pending.decided_at)):
                await self._publisher.publish(emit)
        except Transient:
            raise
        except Exception as error:
            known = translate(error)
            if isinstance(known, Transient):
                raise Transient(known.code, f"The record {name} could not be published: {known.reason}") from error
            structlog.get_logger().error(
                "a fact cannot be published; it stays in the outbox of its record, with those behind it",
                record=name,
                fact=pending.type,
                code=known.code if known else "internal_error",
                reason=known.reason if known else repr(error),
                exc_info=None if known else error,
            )
            self._publisher.count_unpublishable(pending.type)
            return False
        return True

    async def _edit(
        self, key: str, decide: Callable[[R | None], R | None], *, known: Entry[R] | None = None
    ) -> Entry[R] | None:
        name = self._name_of(key)
        return await edit_record(
            self._records, key, decide, name=name, known=known, jitter=self._jitter, sleep=self._sleep
        )

    def _name_of(self, key: str) -> str:
        return f"{self.name}/{key}"


def _without(record: R, published: frozenset[str]) -> R:
    left = tuple(pending for pending in record.outbox if pending.id not in published)
    return record if left == record.outbox else record.model_copy(update={"outbox": left})


def _emit(pending: OutboxEntry) -> Emit:
    return Emit(
        FACTS[pending.type].model_validate(pending.data),
        model=pending.model,
        correlation_id=pending.correlation_id,
        environment=pending.environment,
        cause_id=pending.cause_id,
        id=pending.id,
    )
