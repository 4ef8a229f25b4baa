"""The in-memory twin of a bucket and of the log of facts, faults for both, and a record for tests of the store."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from contracts.envelope import derived_id
from contracts.facts import DeadlinePassed
from contracts.records import OutboxRecord, outbox_entry
from contracts.vocabulary import StoredRecord
from shared.errors import Transient
from shared.messaging.publishing import envelope, id_taken, message_of
from shared.messaging.records import RecordStore
from shared.messaging.topology import DEDUPE_WINDOW_S
from shared.runtime.clock import SystemClock
from shared.storage.kv import Conflict, Entry
from shared.storage.record_format import dump, parse

MODEL = "support-bot"
AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
LIMIT_BYTES = 8 * 1024 * 1024


def dump_newer(record: StoredRecord) -> bytes:
    """Return the bytes of a record as a later version writes it, with a field that this one does not know."""
    version, newer = (f'{{"schema_version":{number},'.encode() for number in (record.SCHEMA_VERSION, 99))
    before = dump(record)
    assert before.startswith(version)
    return before.replace(version, newer + b'"added":1,', 1)


# -- the twin -----------------------------------------------------------------------------------------------------


@dataclass
class MemoryBucket:
    """The bytes of a bucket; `MemoryRecords` of several kinds may share one, as several processes may."""

    data: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    limit_bytes: int = LIMIT_BYTES
    lost: bool = False
    last_revision: int = 0


class MemoryRecords:
    """Records of one kind in memory (implements `shared.storage.compare_and_set.Records`)."""

    def __init__(self, kind, bucket: MemoryBucket | None = None) -> None:
        self.kind = kind
        self.bucket = MemoryBucket() if bucket is None else bucket
        self.conflicts = 0
        """How many of the next writes meet another writer's."""

    async def get(self, key):
        await self._reach()
        if key not in self.bucket.data:
            return None
        revision, data = self.bucket.data[key]
        return Entry(parse(self.kind, data, f"memory/{key}"), revision)

    async def create(self, key, value):
        return await self._write(key, value, None)

    async def update(self, key, value, revision):
        return await self._write(key, value, revision)

    async def keys(self):
        await self._reach()
        return sorted(self.bucket.data)

    async def _write(self, key, value, revision):
        await self._reach()
        data = dump(value)
        if len(data) > self.bucket.limit_bytes:
            limit = f"the limit of the bus is {self.bucket.limit_bytes:,}"
            raise Transient("too_large", f"The record memory/{key} has {len(data):,} bytes; {limit}.")
        current = self.bucket.data.get(key, (None, b""))[0]
        if self.conflicts or current != revision:
            self.conflicts = max(self.conflicts - 1, 0)
            raise Conflict(key)
        self.bucket.last_revision += 1
        self.bucket.data[key] = (self.bucket.last_revision, data)
        return self.bucket.last_revision

    async def _reach(self):
        await asyncio.sleep(0)  # another writer may be next
        if self.bucket.lost:
            raise Transient("bus_unavailable", "The bucket does not exist.")


class MemoryPublisher:
    """The log of facts in memory (implements `shared.messaging.records.Publisher`).

    `log` is what the stream holds, in order; `published` is each call, those of duplicates too. A fact that is
    published again once the stream's dedupe window has passed is stored again.
    """

    def __init__(
        self,
        service: str = "registry",
        limit_bytes: int = LIMIT_BYTES,
        *,
        dedupe_window_s: float = DEDUPE_WINDOW_S,
        now_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.service = service
        self.limit_bytes = limit_bytes
        self._dedupe_window_s = dedupe_window_s
        self._now_s = now_s
        self._passed_s = 0.0
        self.log = []
        self.published = []
        self.unpublishable = []
        self._remembered: dict[str, tuple[str, float]] = {}
        """Subject and time of the last stored fact of each id."""
        self.failing: Exception | None = None
        self.failing_model: str | None = None

    async def publish(self, emit):
        await asyncio.sleep(0)
        if self.failing is not None and self.failing_model in (None, emit.model):
            raise self.failing
        event = self.envelope(emit)
        message_of(event, limit_bytes=self.limit_bytes)
        self.published.append(emit)
        now_s = self._now_s() + self._passed_s
        subject, stored_s = self._remembered.get(event.id, (event.nats_subject, -math.inf))
        if now_s - stored_s >= self._dedupe_window_s:
            self._remembered[event.id] = (event.nats_subject, now_s)
            self.log.append(emit)
        elif subject != event.nats_subject:
            raise id_taken(event)

    def envelope(self, emit):
        return envelope(emit, service=self.service, clock=SystemClock())

    async def was_published(self, emit, since):  # noqa: ARG002 - the twin searches all of its log
        await asyncio.sleep(0)
        event = self.envelope(emit)
        known = [(stored, self.envelope(stored)) for stored in self.log if event_id(stored) == event.id]
        return any(e.nats_subject == event.nats_subject for _, e in known)

    def count_unpublishable(self, fact_type):
        self.unpublishable.append(fact_type)

    def forget(self):
        """Let the dedupe window pass, without a clock of the test's own."""
        self._passed_s += self._dedupe_window_s

    def of(self, kind):
        return [emit.fact for emit in self.published if isinstance(emit.fact, kind)]

    def types(self):
        return [emit.fact.TYPE.removeprefix("slipway.").removesuffix(".v1") for emit in self.published]


def event_id(emit) -> str:
    """Return the id that the event of an emit has on the bus."""
    return emit.id or derived_id(str(emit.cause_id), emit.fact.TYPE, emit.key)


# -- faults -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here; nothing of it runs any more."""


Action = Callable[[], Awaitable[Any]]
WRITE_STEPS = ("write 1 before", "write 1 after", "write 2 before", "write 2 after")
PUBLISH_STEPS = ("publish 1 before", "publish 1 after")
STEPS = ("get 1 before", "get 1 after", *WRITE_STEPS, *PUBLISH_STEPS)
"""The steps of one `transact` with one fact: read, write the record (1), publish, write it cleared (2)."""


class Faults:
    """What happens at which step: `at["write 1 after"]` runs after the first write and before its answer comes."""

    def __init__(self) -> None:
        self.at: dict[str, Action] = {}
        self.counts: dict[str, int] = {}

    async def around(self, operation: str, call: Coroutine[Any, Any, Any]) -> Any:
        number = self.counts[operation] = self.counts.get(operation, 0) + 1
        try:
            await self._fire(f"{operation} {number} before")
        except BaseException:
            call.close()
            raise
        answer = await call
        await self._fire(f"{operation} {number} after")
        return answer

    async def _fire(self, step: str) -> None:
        action = self.at.pop(step, None)
        if action is not None:
            await action()


def raising(error: BaseException) -> Action:
    async def act() -> None:
        raise error

    return act


class FaultyRecords:
    """Records that fail as told."""

    def __init__(self, inner, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def get(self, key):
        return await self._faults.around("get", self._inner.get(key))

    async def create(self, key, value):
        return await self._faults.around("write", self._inner.create(key, value))

    async def update(self, key, value, revision):
        return await self._faults.around("write", self._inner.update(key, value, revision))

    async def keys(self):
        return await self._inner.keys()


class FaultyPublisher:
    """A publisher that fails as told."""

    def __init__(self, inner, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def publish(self, emit):
        return await self._faults.around("publish", self._inner.publish(emit))

    async def was_published(self, emit, since):
        return await self._faults.around("look", self._inner.was_published(emit, since))

    def count_unpublishable(self, fact_type):
        self._inner.count_unpublishable(fact_type)


# -- a record for tests -------------------------------------------------------------------------------------------


class Tally(OutboxRecord):
    """Counts causes: each is applied once, and one fact follows from it."""

    causes: tuple[str, ...] = ()
    note: str = ""


def count(cause: str, facts: int = 1):
    """Return a decision: apply a cause once, with so many facts."""

    def decide(tally: Tally | None) -> Tally:
        tally = tally or Tally()
        if cause in tally.causes:
            return tally
        pending = tuple(
            outbox_entry(
                DeadlinePassed(release_id=cause, step=str(number), waiting_for="nothing"),
                model=MODEL,
                key=str(number),
                cause_id=cause,
                correlation_id=cause,
                decided_at=AT,
            )
            for number in range(facts)
        )
        return tally.model_copy(update={"causes": (*tally.causes, cause), "outbox": (*tally.outbox, *pending)})

    return decide


async def no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)


def tally_store(records, publisher, faults: Faults | None = None, **more) -> RecordStore[Tally]:
    """Return a store of tallies, as a new process has it."""
    if faults is not None:
        records, publisher = FaultyRecords(records, faults), FaultyPublisher(publisher, faults)
    return RecordStore("releases", records, publisher, service="registry", **more)
