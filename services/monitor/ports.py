"""What the monitor needs from outside."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from contracts.vocabulary import ArtifactRef, Target
from services.monitor.domain.drift import DriftVerdict
from services.monitor.domain.record import Reference

Columns = Mapping[str, Sequence[float]]


class References(Protocol):
    """The stored reference windows, numbered per target."""

    async def latest(self, target: Target) -> Reference | None:
        """Return the newest reference of a target; None when there is none."""

    async def put(self, target: Target, columns: Columns, *, taken_at: datetime, source: str) -> Reference:
        """Store a window as the target's next reference; return the one stored, maybe by another process."""

    async def rows(self, reference: Reference) -> dict[str, list[float]]:
        """Read a reference's rows, verified."""


class Reports(Protocol):
    """Makes the report that a drift alert links to."""

    async def make(self, target: Target, reference: Columns, current: Columns, verdict: DriftVerdict) -> ArtifactRef:
        """Render, store and link the evidence of a comparison.

        Raises:
            SlipwayError: it could not be made or stored; the alert then goes without.
        """
