"""Access to the record of one fleet, and to its outbox."""

from collections.abc import Callable

from services.server_manager.domain.records import Servers
from shared.messaging.records import RecordStore


class FleetState:
    """The record `servers/<fleet>`; one write stores a decision together with its facts."""

    def __init__(self, store: RecordStore[Servers], fleet: str) -> None:
        self._store = store
        self._fleet = fleet

    async def read(self) -> Servers:
        """Return the record; an empty one if it does not exist."""
        return await self._store.read(self._fleet) or Servers()

    async def write(self, decide: Callable[[Servers], Servers]) -> Servers:
        """Apply `decide`, write the record if it changed, and return it.

        Facts wait in the outbox for `publish`: a full or slow log must not delay the healing of engines.
        """
        empty = Servers()

        def changed(record: Servers | None) -> Servers | None:
            before = record or empty
            after = decide(before)
            return record if after == before else after

        return await self._store.write(self._fleet, changed) or empty

    async def publish(self) -> None:
        """Publish and clear the record's outbox; raise Transient if that fails."""
        await self._store.publish(self._fleet)
