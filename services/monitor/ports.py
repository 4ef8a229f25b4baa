"""Ports of the monitor: references, reports, routes, policies, the alert log."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from contracts.facts import AlertRaised
from contracts.routes import Route
from contracts.vocabulary import ArtifactRef, Environment, Target
from services.monitor.domain.drift import DriftVerdict
from services.monitor.domain.record import Reference
from shared.provenance.signed_versions import SignedPolicy
from shared.storage.kv import Entry

Columns = Mapping[str, Sequence[float]]


class References(Protocol):
    """The stored drift references, numbered per target."""

    async def latest(self, target: Target) -> Reference | None:
        """Return the newest reference of a target; None without one."""

    async def put(self, target: Target, columns: Columns, *, taken_at: datetime, source: str) -> Reference:
        """Store a window as the target's next reference; return the stored one, maybe another process's."""

    async def rows(self, reference: Reference) -> dict[str, list[float]]:
        """Return a reference's verified rows by column."""


class Reports(Protocol):
    """Makes the reports linked by drift alerts."""

    async def make(self, target: Target, reference: Columns, current: Columns, verdict: DriftVerdict) -> ArtifactRef:
        """Render and store the report of a comparison; return a reference to it.

        Raises:
            SlipwayError: rendering or storing failed; the alert is raised without a report.
        """


class Routes(Protocol):
    """The stored routes of production and staging."""

    async def models(self, environment: Environment) -> list[str]:
        """Return the models with a route."""

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Return a model's route with its revision; None without one."""


class Policies(Protocol):
    """The signed policies of versions."""

    async def read(self, model: str, version: int) -> SignedPolicy | str:
        """Return a version's signed policy; else a sentence with the reason."""


class OpenAlerts(Protocol):
    """The monitor's alerts in the event log."""

    async def read(self, environment: Environment, model: str) -> tuple[AlertRaised, ...]:
        """Return a model's alerts that were raised and not resolved."""
