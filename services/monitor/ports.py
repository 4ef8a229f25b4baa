"""Ports of the monitor."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from contracts.facts import AlertRaised
from contracts.routes import Route
from contracts.vocabulary import ArtifactRef, Environment, Target
from services.monitor.domain.drift import DriftVerdict
from services.monitor.domain.record import Reference
from shared.provenance.signed_policies import SignedPolicy
from shared.storage.kv import Entry

Columns = Mapping[str, Sequence[float]]


class References(Protocol):
    """The stored reference windows, numbered per target."""

    async def latest(self, target: Target) -> Reference | None:
        """Return the newest reference of a target; None when there is none."""

    async def put(self, target: Target, columns: Columns, *, taken_at: datetime, source: str) -> Reference:
        """Store a window as the target's next reference; return the one stored, maybe by another process."""

    async def rows(self, reference: Reference) -> dict[str, list[float]]:
        """Return a reference's verified rows by column."""


class Reports(Protocol):
    """Makes the report that a drift alert links to."""

    async def make(self, target: Target, reference: Columns, current: Columns, verdict: DriftVerdict) -> ArtifactRef:
        """Render, store and link the evidence of a comparison.

        Raises:
            SlipwayError: it could not be made or stored; the alert then goes without.
        """


class Routes(Protocol):
    """The routes of production and of staging, as they are stored."""

    async def models(self, environment: Environment) -> list[str]:
        """Return the models that have a route."""

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Return the route of a model; None if there is none."""


class Policies(Protocol):
    """The policies that are signed with versions."""

    async def read(self, model: str, version: int) -> SignedPolicy | str:
        """Return the policy of a version; a sentence that says why it cannot be read else."""


class OpenAlerts(Protocol):
    """The log of the monitor's alerts."""

    async def read(self, environment: Environment, model: str) -> tuple[AlertRaised, ...]:
        """Return the alerts about a model that were raised and not resolved."""
