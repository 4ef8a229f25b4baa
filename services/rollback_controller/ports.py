"""Ports of the rollback-controller."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from contracts.drills import Drill
from contracts.manifests import RehearsalRecord
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Environment
from shared.messaging.bus import Emit
from shared.provenance.signed_policies import SignedPolicy
from shared.storage.kv import Entry


class Routes(Protocol):
    """The routes of production and of staging."""

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Read a route; None when there is none."""

    async def find(self, environment: Environment, model: str, cause_id: str) -> Route | None:
        """Return the route that an event led to, also if others followed; None if it is not among the last ones."""

    async def put(self, environment: Environment, route: Route, revision: int | None) -> None:
        """Write a route that must still be at `revision` (None: must not exist); raise `kv.Conflict` else."""


class Drills(Protocol):
    """The drills that gateways follow."""

    async def put(self, drill: Drill) -> None:
        """Make this the drill of its model and environment."""

    async def get(self, environment: Environment, model: str) -> Drill | None:
        """Read the drill of a model and environment, on or over."""


class Alerts(Protocol):
    """The log of alerts."""

    async def resolved_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether the log has the resolution of an alert after a sequence number."""

    async def last_route_change(self, environment: Environment, model: str) -> int:
        """Return the sequence number in the log of the last `deployment.changed`; 0 if there is none."""

    async def last_raised(self, environment: Environment, model: str) -> int:
        """Return the sequence number in the log of the last `alert.raised`; 0 if there is none."""

    async def raised_since(self, environment: Environment, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether the log says after a sequence number that an alert was raised."""


class Proofs(Protocol):
    """Attestations of versions."""

    async def attest_rehearsal(self, record: RehearsalRecord) -> None:
        """Append the outcome of a rehearsal to the version's attestations, once."""

    async def policy(self, model: str, version: int) -> SignedPolicy | str:
        """Return the policy that is signed with a version; a sentence that says why it cannot be read else."""


class Publisher(Protocol):
    """Publishes facts."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has it; raise Transient when it has not."""


class Probe(Protocol):
    """Asks targets for answers, past all gateways: neither a caller's limits nor telemetry know of it."""

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None when so many of its endpoints generate a token in time, else why the others do not."""


class RememberedProbe(Probe, Protocol):
    """Probes that know who answered a moment ago."""

    async def answered(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None when so many of its endpoints generated a token a moment ago, or do now; else why not."""


class Traffic(Protocol):
    """Requests to a model in staging, through the gateway."""

    def flow(self, model: str) -> AbstractAsyncContextManager["Flow"]:
        """Send requests at a steady rate for as long as the context lasts."""


class Flow(Protocol):
    """Requests that are being sent."""

    @property
    def seconds(self) -> Sequence[float]:
        """Latencies of the good answers so far, in seconds, from sending to the complete answer."""

    @property
    def last_failure(self) -> str:
        """Why the last one was not answered well; empty while all are."""
