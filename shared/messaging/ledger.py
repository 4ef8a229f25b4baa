"""Keeps records that have an outbox: each is read, changed by a pure function, written by compare-and-set, and told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from contracts.facts import FACTS
from contracts.outbox import OutboxRecord, Outgoing
from contracts.vocabulary import Environment
from shared.errors import Transient
from shared.messaging.bus import Emit
from shared.runtime.failpoints import failpoint
from shared.storage.kv import Conflict, Entry

K = TypeVar("K", bound=OutboxRecord)
_ATTEMPTS = 50


class Records(Protocol[K]):
    """Records under compare-and-set."""

    async def get(self, key: str) -> Entry[K] | None:
        """Read a record; None when there is none."""

    async def create(self, key: str, value: K) -> int:
        """Write a record that must not exist yet; raise `shared.storage.kv.Conflict` when it does."""

    async def update(self, key: str, value: K, revision: int) -> int:
        """Write a record that must still be at `revision`; raise `shared.storage.kv.Conflict` when it is not."""

    async def keys(self) -> list[str]:
        """List all keys."""


class Publisher(Protocol):
    """Says facts on the bus."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has it; raise Transient when it has not."""

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the stream has this very fact already, decided at `since`, however long ago that was."""


@dataclass
class _Held(Generic[K]):
    """A record as this process last read or wrote it; `left_over` is what an earlier process may have said already."""

    entry: Entry[K] | None
    left_over: frozenset[tuple[str, str, str]]


class Ledger(Generic[K]):
    """The records of all models; each is read once, and again only when another process wrote it."""

    def __init__(
        self, records: Records[K], publisher: Publisher, fresh: Callable[[str, Environment], K], *, service: str
    ) -> None:
        self._records = records
        self._publisher = publisher
        self._fresh = fresh
        self._service = service
        self._held: dict[str, _Held[K]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def apply(self, environment: Environment, model: str, change: Callable[[K], K]) -> K:
        """Change a record, then publish what follows from it; nothing is written where nothing changes.

        Raises:
            Transient: What follows could not be published; the change stands, and the next call publishes it.
        """
        return await self._change(environment, model, change, publish=True)

    async def write(self, environment: Environment, model: str, change: Callable[[K], K]) -> K:
        """Change a record; the next `apply` publishes what follows from it.

        For what must be acted on even while nothing can be published.
        """
        return await self._change(environment, model, change, publish=False)

    async def _change(self, environment: Environment, model: str, change: Callable[[K], K], *, publish: bool) -> K:
        key = f"{environment}.{model}"
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            for _ in range(_ATTEMPTS):
                held = await self._hold(key)
                before = held.entry.value if held.entry else self._fresh(model, environment)
                after = change(before)
                try:
                    if after is not before:
                        await self._write(key, held, after)
                    if publish:
                        await self._drain(held)
                except Conflict:
                    self._held.pop(key, None)
                    continue
                return held.entry.value if held.entry else before
        raise Transient("bus_unavailable", f"The record of {model} kept changing.")

    async def kept(self) -> list[tuple[Environment, str]]:
        """List whose records there are."""
        found: list[tuple[Environment, str]] = []
        for key in await self._records.keys():
            environment, _, model = key.partition(".")
            if environment == "staging":
                found.append(("staging", model))
            elif environment == "production":
                found.append(("production", model))
        return found

    async def read(self, environment: Environment, model: str) -> K | None:
        """Return a record as it is now, whoever wrote it last."""
        entry = await self._records.get(f"{environment}.{model}")
        return entry.value if entry else None

    async def _hold(self, key: str) -> _Held[K]:
        if key not in self._held:
            entry = await self._records.get(key)
            left = frozenset(one.identity for one in entry.value.outbox) if entry else frozenset()
            self._held[key] = _Held(entry, left)
        return self._held[key]

    async def _write(self, key: str, held: _Held[K], after: K) -> None:
        if held.entry is None:
            revision = await self._records.create(key, after)
        else:
            revision = await self._records.update(key, after, held.entry.revision)
        held.entry = Entry(after, revision)

    async def _drain(self, held: _Held[K]) -> None:
        """Return what is in the outbox, and clear it; the clearing is written with the next change.

        What another process left there may have been said longer ago than the dedupe window remembers: that is looked
        up in the log, so that each fact is there once.
        """
        entry = held.entry
        if entry is None or not entry.value.outbox:
            return
        for one in entry.value.outbox:
            emit = _emit(entry.value, one)
            looked_up = one.identity in held.left_over
            if not looked_up or not await self._publisher.was_published(emit, one.decided_at):
                held.left_over |= {one.identity}  # until the bus has answered for all: then it is looked up
                await self._publisher.publish(emit)
        failpoint(f"{self._service}.after_publish")
        held.entry = Entry(entry.value.model_copy(update={"outbox": ()}), entry.revision)
        held.left_over = frozenset()


def _emit(record: OutboxRecord, one: Outgoing) -> Emit:
    return Emit(
        FACTS[one.type].model_validate(one.data),
        key=one.key,
        model=record.model,
        correlation_id=one.correlation_id,
        environment=one.environment or record.environment,
        cause_id=one.cause_id,
    )
