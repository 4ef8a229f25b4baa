"""What the monitor needs from outside."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from contracts.vocabulary import ArtifactRef, Target
from services.monitor.domain.drift import DriftVerdict
from services.monitor.domain.record import Reference, Watch
from shared.bus import Emit
from shared.kv import Entry

Columns = Mapping[str, Sequence[float]]


class Records(Protocol):
    """Records under compare-and-set."""

    async def get(self, key: str) -> Entry[Watch] | None:
        """Read a record; None when there is none."""

    async def create(self, key: str, value: Watch) -> int:
        """Write a record that must not exist yet; raise `shared.kv.Conflict` when it does."""

    async def update(self, key: str, value: Watch, revision: int) -> int:
        """Write a record that must still be at `revision`; raise `shared.kv.Conflict` when it is not."""

    async def keys(self) -> list[str]:
        """List all keys."""


class Publisher(Protocol):
    """Says facts on the bus."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has it; raise Transient when it has not."""

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Tell whether the stream has this very fact already, decided at `since`, however long ago that was."""


class References(Protocol):
    """The stored reference windows, numbered per target."""

    async def latest(self, target: Target) -> Reference | None:
        """Give the newest reference of a target; None when there is none."""

    async def put(self, target: Target, columns: Columns, *, taken_at: datetime, source: str) -> Reference:
        """Store a window as the target's next reference; gives the one that stands, which may be somebody else's."""

    async def rows(self, reference: Reference) -> dict[str, list[float]]:
        """Read a reference's rows, verified."""


class Reports(Protocol):
    """Makes the report that a drift alert links to."""

    async def make(self, target: Target, reference: Columns, current: Columns, verdict: DriftVerdict) -> ArtifactRef:
        """Render, store and link the evidence of a comparison.

        Raises:
            SlipwayError: it could not be made or stored; the alert then goes without.
        """
