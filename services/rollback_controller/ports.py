"""Ports of the rollback-controller: routes, drills, the log, proofs, probes, traffic."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from contracts.drills import Drill
from contracts.facts import RehearsalRequested
from contracts.manifests import RehearsalRecord
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Environment
from shared.messaging.bus import Emit
from shared.provenance.signed_versions import SignedPolicy
from shared.storage.kv import Entry


class Routes(Protocol):
    """The routes of production and staging."""

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Return a route with its revision; None without one."""

    async def find(self, environment: Environment, model: str, cause_id: str) -> Route | None:
        """Return the route written for a cause, from the bucket's history; None if not there."""

    async def put(self, environment: Environment, route: Route, revision: int | None) -> None:
        """Write a route over `revision` (None: create it); raise `kv.Conflict` if another writer was first."""


class Drills(Protocol):
    """The drills that gateways follow."""

    async def put(self, drill: Drill) -> None:
        """Set the drill of its model and environment."""

    async def get(self, environment: Environment, model: str) -> Drill | None:
        """Return the drill of a model and environment, active or ended; None without one."""


class Alerts(Protocol):
    """The event log, for questions about alerts, routes and requests."""

    async def resolved_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether an alert was resolved after a sequence number of the log."""

    async def last_route_change(self, environment: Environment, model: str) -> int:
        """Return the sequence number of the last `deployment.changed`; 0 without one."""

    async def last_raised(self, environment: Environment, model: str) -> int:
        """Return the sequence number of the last `alert.raised`; 0 without one."""

    async def raised_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether an alert was raised after a sequence number of the log."""

    async def rehearsal_requested(self, model: str) -> RehearsalRequested | None:
        """Return the last request for a rehearsal of a model's release; None without one."""


class Proofs(Protocol):
    """Attestations and signed policies of versions."""

    async def attest_rehearsal(self, record: RehearsalRecord) -> None:
        """Append a rehearsal's outcome to the version's attestations; idempotent."""

    async def policy(self, model: str, version: int) -> SignedPolicy | str:
        """Return a version's signed policy; else a sentence with the reason."""


class Publisher(Protocol):
    """Publishes facts."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has stored it; raise Transient otherwise."""


class Probe(Protocol):
    """Probes targets directly, without gateways: no limits apply, and no telemetry results."""

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None if at least `least` endpoints generate a token in time, else the failures."""


class RememberedProbe(Probe, Protocol):
    """A probe that remembers recent answers."""

    async def answered(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None if `least` endpoints generated a token recently, or do now; else the failures."""


class Traffic(Protocol):
    """Rehearsal traffic to a model in staging, through the gateway."""

    def flow(self, model: str) -> AbstractAsyncContextManager["Flow"]:
        """Send requests at a steady rate during the context."""


class Flow(Protocol):
    """Running rehearsal traffic."""

    @property
    def seconds(self) -> Sequence[float]:
        """Seconds from request to complete answer, of each successful request so far."""

    @property
    def last_failure(self) -> str:
        """The last failure of a request; empty without one."""
