"""Reads and changes the record of one fleet, and publishes the resulting facts."""

from collections.abc import Callable

from services.server_manager.domain.records import Servers
from shared.messaging.records import RecordStore


class FleetState:
    """The record `servers/<fleet>`. A decision is written together with the facts that follow from it."""

    def __init__(self, store: RecordStore[Servers], fleet: str) -> None:
        self._store = store
        self._fleet = fleet

    async def read(self) -> Servers:
        """Return the record; an empty one if there is none."""
        return await self._store.read(self._fleet) or Servers()

    async def write(self, decide: Callable[[Servers], Servers]) -> Servers:
        """Decide, write the record if it changed, return it; `publish` publishes the resulting facts.

        A log that is full or slow must not keep engines from being healed, so the two are apart.
        """
        empty = Servers()

        def changed(record: Servers | None) -> Servers | None:
            before = record or empty
            after = decide(before)
            return record if after == before else after

        return await self._store.write(self._fleet, changed) or empty

    async def publish(self) -> None:
        """Publish the record's outbox, and clear it; raise Transient if that fails."""
        await self._store.publish(self._fleet)
