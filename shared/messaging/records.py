"""The record store with an outbox: facts are written with the record, then published, then cleared."""

import asyncio
import random
from collections.abc import Callable
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
    edit_record,
    failing_as_transient,
)
from shared.storage.kv import Entry

R = TypeVar("R", bound=OutboxRecord)
Note = Callable[[str, R], None]
_KNOWN_UNPUBLISHED_S = DEDUPE_WINDOW_S / 2
"""Age of a write up to which its facts are published without a search of the log. The rest of the dedupe window is for
publication, which takes up to a minute."""


class Publisher(Protocol):
    """Publishes facts, and looks up whether they were published."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has it; an id is stored once within the dedupe window.

        Raises:
            Transient: `bus_unavailable` if the stream does not have it.
        """

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the stream has the fact with this id, decided at `since`."""

    def count_unpublishable(self, fact_type: str) -> None:
        """Count a permanently refused fact; it stays in its record's outbox."""


class RecordStore(Generic[R]):
    """Records of one kind by key, each with an outbox of facts to publish.

    When a change returns, it is written and its facts are in the stream. Failures before are `Transient`: the message
    is redelivered, finds the decision made, and the rest is done. Errors of `decide` pass through; nothing is written.

    Facts of a key are published in order of its changes. Writes do not wait for publication.

    A fact that can never be published (too large, unknown type) fails no caller. It stays in the outbox with all later
    facts, is logged and counted, and retried by the next change or sweep of its record.
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
        decides_again: bool = False,
        note: Note[R] | None = None,
    ) -> None:
        """Set up the store.

        Args:
            name: The bucket's name.
            records: The bucket.
            publisher: Publishes the facts.
            service: The service that decides, for failpoints.
            jitter: Returns random numbers from 0 to 1.
            sleep: Waits for some seconds.
            boottime: Returns seconds since the machine started, including suspension.
            decides_again: Decisions of `write` may repeat after their facts were published and cleared: look each fact
                up in the log before publishing it.
            note: Called with each key and record read or written, for metrics.
        """
        self.name = name
        self._records = records
        self._publisher = publisher
        self._service = service
        self._jitter = jitter
        self._sleep = sleep
        self._boottime = boottime
        self._decides_again = decides_again
        self._note = note
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._decided_s: dict[str, float] = {}
        """When this process decided on each fact that it wrote, just before the write."""

    async def read(self, key: str) -> R | None:
        """Return the current record, or None.

        Raises:
            Transient: The record could not be read.
        """
        entry = await self.get(key)
        return entry.value if entry else None

    async def get(self, key: str) -> Entry[R] | None:
        """Return a record as `read` does, with its revision, for the `known` of `write`."""
        with failing_as_transient(self._name_of(key), "read"):
            entry = await self._records.get(key)
        self._noted(key, entry)
        return entry

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
            decide: A pure function from the record, or None, to its new state; called again after a conflict. An
                unchanged record is not written.

        Returns:
            The record with a cleared outbox.

        Raises:
            Transient: The record could not be read or written, or a fact not published yet. A write stands; the next
                `transact`, `publish` or sweep of the key continues.
        """
        return await self._publish(key, await self._write(key, decide))

    @overload
    async def write(self, key: str, decide: Callable[[R | None], R], known: Entry[R] | None = None) -> R: ...
    @overload
    async def write(
        self, key: str, decide: Callable[[R | None], R | None], known: Entry[R] | None = None
    ) -> R | None: ...
    async def write(self, key: str, decide: Callable[[R | None], R | None], known: Entry[R] | None = None) -> R | None:
        """Do the first half of `transact`, without `publish`: for decisions that take effect while the bus is down.

        `known` is the record as just read; it is read again only after a conflict.
        """
        entry = await self._write(key, decide, unpublished=not self._decides_again, known=known)
        return entry.value if entry else None

    async def publish(self, key: str) -> R | None:
        """Publish and clear a record's outbox; return the record with the facts that could not be published."""
        return await self.transact(key, lambda record: record)

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of a name; within one process, it is acquired in order of arrival."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def _write(
        self,
        key: str,
        decide: Callable[[R | None], R | None],
        *,
        unpublished: bool = True,
        known: Entry[R] | None = None,
    ) -> Entry[R] | None:
        before: R | None = None
        at_s = self._boottime()

        def note_and_decide(record: R | None) -> R | None:
            nonlocal before, at_s
            before, at_s = record, self._boottime()
            return decide(record)

        async with self._lock(key):
            entry = await self._edit(key, note_and_decide, known=known)
        if entry is not None and entry.value.outbox and unpublished:
            left_over = {pending.id for pending in before.outbox} if before else set()
            self._remember([pending.id for pending in entry.value.outbox if pending.id not in left_over], at_s)
        return entry

    def _remember(self, fact_ids: list[str], at_s: float) -> None:
        """Remember that this process wrote facts; forget facts whose publication has become doubtful."""
        recent = {fact_id: since_s for fact_id, since_s in self._decided_s.items() if not self._is_doubtful(fact_id)}
        self._decided_s = recent | dict.fromkeys(fact_ids, at_s)

    def _is_doubtful(self, fact_id: str) -> bool:
        """Return whether a fact may have been published before the stream's dedupe window.

        True for facts of another process, of a write without an answer, and of an old write: this process may have been
        stopped or suspended since, while another one published and cleared the record.
        """
        at_s = self._decided_s.get(fact_id)
        return at_s is None or self._boottime() - at_s > _KNOWN_UNPUBLISHED_S

    async def _publish(self, key: str, entry: Entry[R] | None) -> R | None:
        """Publish the outbox in order, then clear it; doubtful facts are looked up first, so each is stored once."""
        if entry is None or not entry.value.outbox:
            return entry.value if entry else None
        turn = self._lock(f"{key}\0publish")  # no key of a bucket has a NUL
        waits = turn.locked()
        async with turn:
            if waits:  # the change before may have published the facts of this one too
                entry = await self._edit(key, lambda record: record)
            return await self._publish_in_turn(key, entry)

    async def _publish_in_turn(self, key: str, entry: Entry[R] | None) -> R | None:
        published: set[str] = set()
        for pending in entry.value.outbox if entry else ():
            if not await self._publish_one(key, pending):
                break
            published.add(pending.id)
        failpoint(f"{self._service}.after_publish")
        async with self._lock(key):
            left = await self._edit(key, lambda record: record and _without(record, frozenset(published)), known=entry)
        return left.value if left else None

    async def _publish_one(self, key: str, pending: OutboxEntry) -> bool:
        """Return True once the stream has a fact, False if it was refused permanently; raise Transient otherwise."""
        name = self._name_of(key)
        try:
            emit = _emit(pending)
            if not (self._is_doubtful(pending.id) and await self._publisher.was_published(emit, pending.decided_at)):
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
        entry = await edit_record(
            self._records, key, decide, name=name, known=known, jitter=self._jitter, sleep=self._sleep
        )
        self._noted(key, entry)
        return entry

    def _noted(self, key: str, entry: Entry[R] | None) -> None:
        if entry is not None and self._note is not None:
            self._note(key, entry.value)

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
