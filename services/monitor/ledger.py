"""Keeps the monitor's records: read, ask the domain, write by compare-and-set, publish, clear."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from contracts.facts import FACTS
from contracts.vocabulary import Environment
from services.monitor.domain.record import Outgoing, Watch, watch_key
from services.monitor.domain.watching import without_published
from services.monitor.ports import Publisher, Records
from shared.bus import Emit
from shared.errors import Transient
from shared.failpoints import failpoint
from shared.kv import Conflict, Entry

Change = Callable[[Watch], Watch]
_ATTEMPTS = 50


@dataclass
class _Held:
    """A record as this process last read or wrote it; `left_over` is what an earlier process may have said already."""

    entry: Entry[Watch] | None
    left_over: frozenset[tuple[str, str, str]]


class Ledger:
    """The records of all models; each is read once, and again only when another process wrote it."""

    def __init__(self, records: Records, publisher: Publisher) -> None:
        self._records = records
        self._publisher = publisher
        self._held: dict[str, _Held] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def apply(self, environment: Environment, model: str, change: Change) -> Watch:
        """Change a record, then say what follows from it; nothing is written where nothing changes."""
        key = watch_key(environment, model)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            for _ in range(_ATTEMPTS):
                held = await self._hold(key)
                before = held.entry.value if held.entry else Watch(model=model, environment=environment)
                after = change(before)
                try:
                    if after is not before:
                        await self._write(key, held, after)
                    await self._drain(held)
                except Conflict:
                    self._held.pop(key, None)
                    continue
                return held.entry.value if held.entry else before
        raise Transient("bus_unavailable", f"The record of {model} kept changing.")

    async def watches(self) -> list[tuple[Environment, str]]:
        """List whose records there are."""
        found: list[tuple[Environment, str]] = []
        for key in await self._records.keys():
            environment, _, model = key.partition(".")
            if environment == "staging":
                found.append(("staging", model))
            elif environment == "production":
                found.append(("production", model))
        return found

    async def read(self, environment: Environment, model: str) -> Watch | None:
        """Give a record as this process knows it."""
        held = await self._hold(watch_key(environment, model))
        return held.entry.value if held.entry else None

    async def _hold(self, key: str) -> _Held:
        if key not in self._held:
            entry = await self._records.get(key)
            left = frozenset(_identity(one) for one in entry.value.outbox) if entry else frozenset()
            self._held[key] = _Held(entry, left)
        return self._held[key]

    async def _write(self, key: str, held: _Held, after: Watch) -> None:
        if held.entry is None:
            revision = await self._records.create(key, after)
        else:
            revision = await self._records.update(key, after, held.entry.revision)
        held.entry = Entry(after, revision)

    async def _drain(self, held: _Held) -> None:
        """Say what is in the outbox, and clear it; the clearing is written with the next change.

        What another process left there may have been said longer ago than the dedupe window remembers: that is looked
        up in the log, so that each fact is there once.
        """
        entry = held.entry
        if entry is None or not entry.value.outbox:
            return
        for one in entry.value.outbox:
            emit = _emit(entry.value, one)
            looked_up = _identity(one) in held.left_over
            if not looked_up or not await self._publisher.was_published(emit, one.decided_at):
                await self._publisher.publish(emit)
        failpoint("monitor.after_publish")
        held.entry = Entry(without_published(entry.value, entry.value.outbox), entry.revision)
        held.left_over = frozenset()


def _identity(one: Outgoing) -> tuple[str, str, str]:
    return one.cause_id, one.type, one.key


def _emit(watch: Watch, one: Outgoing) -> Emit:
    return Emit(
        FACTS[one.type].model_validate(one.data), key=one.key, model=watch.model, correlation_id=one.correlation_id,
        environment=watch.environment, cause_id=one.cause_id,
    )  # fmt: skip
