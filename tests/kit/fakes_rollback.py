"""Handwritten stand-ins for what the rollback-controller needs; each passes the suite that the real adapter passes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from contracts.drills import Drill
from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged, RehearsalRequested
from contracts.manifests import RehearsalRecord
from contracts.policy import ReleasePolicy
from contracts.records import record_key
from contracts.routes import Route, ServedTarget
from shared.errors import Transient
from shared.messaging.publishing import Emit, envelope, id_taken, message_of
from shared.messaging.topology import DEDUPE_WINDOW_S
from shared.provenance.signed_versions import SignedPolicy
from shared.runtime.clock import Clock
from shared.storage.kv import Conflict, Entry

SERVICE = "rollback-controller"
ROUTES_KEPT = 16
LIMIT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Stored:
    """A message of the log."""

    sequence: int
    event: Event[Any]
    stored_at: datetime


class FakeProofs:
    """Attestations and signed policies in memory."""

    def __init__(self) -> None:
        self.rehearsals: list[RehearsalRecord] = []
        self.policies: dict[int, ReleasePolicy] = {}

    async def policy(self, model, version):
        if version not in self.policies:
            return f"Version {version} of {model} was signed without its policy."
        return SignedPolicy(f"r-{version}", self.policies[version])

    async def attest_rehearsal(self, record):
        if record not in self.rehearsals:
            self.rehearsals.append(record)


class FakeLog:
    """The log of facts in memory: publishes into it, and looks up what it has (ports `Publisher` and `Alerts`)."""

    def __init__(self, clock: Clock, *, service: str = SERVICE, limit_bytes: int = LIMIT_BYTES) -> None:
        self._clock = clock
        self._service = service
        self.limit_bytes = limit_bytes
        self.stored: list[Stored] = []
        self.unpublishable: list[str] = []
        self.lost = False
        self.full = False
        self.silent_s = 0.0
        """Seconds after which a publication fails without an answer; 0 for a log that answers."""
        self.unanswered = 0
        """How many of the next publications are stored and fail all the same, because their answers are lost."""

    def _check(self) -> None:
        if self.lost:
            raise Transient("bus_unavailable", "The message bus does not answer: lost.")

    def append(self, event: Event[Any]) -> Stored:
        """Store an event, unless the log has stored its id within the dedupe window."""
        now = self._clock.true_time() if hasattr(self._clock, "true_time") else self._clock.now()
        for message in self.stored:
            if message.event.id == event.id and now - message.stored_at < timedelta(seconds=DEDUPE_WINDOW_S):
                return message
        message = Stored(len(self.stored) + 1, event, now)
        self.stored.append(message)
        return message

    def envelope(self, emit: Emit) -> Event[Any]:
        """Return the event of a fact, as the service publishes it."""
        return envelope(emit, service=self._service, clock=self._clock)

    async def publish(self, emit: Emit) -> Event[Any]:
        """Publish a fact and return once the log has it."""
        await asyncio.sleep(0)
        self._check()
        if self.silent_s:
            await asyncio.sleep(self.silent_s)
            raise Transient("bus_unavailable", "The message bus does not answer: silent.")
        if self.full:
            raise Transient("stream_full", "A stream of the message bus is full.")
        event = self.envelope(emit)
        message_of(event, limit_bytes=self.limit_bytes)
        stored = self.append(event)
        if stored.event.nats_subject != event.nats_subject:
            raise id_taken(event)
        if self.unanswered:
            self.unanswered -= 1
            raise Transient(
                "bus_unavailable", "The message bus does not answer: it stored the fact, the answer was lost."
            )
        return event

    def count_unpublishable(self, fact_type: str) -> None:
        """Count a fact that was refused permanently."""
        self.unpublishable.append(fact_type)

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the log has the fact of this id, stored not long before `since` or later."""
        self._check()
        begin = since - timedelta(minutes=5)
        event = self.envelope(emit)
        about = (event.id, event.nats_subject)
        return any(
            (message.event.id, message.event.nats_subject) == about and message.stored_at >= begin
            for message in self.stored
        )

    async def resolved_since(self, environment: str, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether the log has the resolution of an alert after a sequence number."""
        resolved = self._about(AlertResolved, environment, model)
        return any(number > sequence and fact.alert_id == alert_id for number, fact in resolved)

    async def last_route_change(self, environment: str, model: str) -> int:
        """Return the sequence number in the log of the last change of a route; 0 if there is none."""
        return max((number for number, _ in self._about(DeploymentChanged, environment, model)), default=0)

    async def last_raised(self, environment: str, model: str) -> int:
        """Return the sequence number in the log of the last alert that was raised; 0 if there is none."""
        return max((number for number, _ in self._about(AlertRaised, environment, model)), default=0)

    async def raised_since(self, environment: str, model: str, alert_id: str, sequence: int) -> bool:
        """Return whether the log says after a sequence number that an alert was raised."""
        raised = self._about(AlertRaised, environment, model)
        return any(number > sequence and fact.alert_id == alert_id for number, fact in raised)

    async def rehearsal_requested(self, model: str) -> RehearsalRequested | None:
        """Return the last request for a rehearsal of a model's release; None if there is none."""
        requests = self._about(RehearsalRequested, "production", model)
        return requests[-1][1] if requests else None

    def _about(self, kind: type, environment: str, model: str) -> list[tuple[int, Any]]:
        """Return the facts of a type about a model, each with its sequence number."""
        self._check()
        return [
            (message.sequence, message.event.data)
            for message in self.stored
            if isinstance(message.event.data, kind)
            and (message.event.environment, message.event.subject) == (environment, model)
        ]

    def facts(self, kind: type, environment: str = "production") -> list[Any]:
        """Return the facts of a type in the order of the log."""
        events = [message.event for message in self.stored]
        return [event.data for event in events if isinstance(event.data, kind) and event.environment == environment]


class FakeRoutes:
    """Routes of production and staging under compare-and-set."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Entry[Route]] = {}
        self.history: list[tuple[str, Route]] = []
        self.lost = False
        self.conflicts = 0
        """How many of the next writes come too late, because another writer changed the route."""

    async def get(self, environment: str, model: str) -> Entry[Route] | None:
        """Read a route; None when there is none."""
        self._check()
        return self.entries.get((environment, model))

    async def find(self, environment: str, model: str, cause_id: str) -> Route | None:
        """Return the route that an event led to; None if it is not among the last `ROUTES_KEPT`."""
        self._check()
        kept = [route for where, route in self.history if (where, route.model) == (environment, model)][-ROUTES_KEPT:]
        return next((route for route in reversed(kept) if route.cause_id == cause_id), None)

    async def put(self, environment: str, route: Route, revision: int | None) -> None:
        """Write a route that must still be at `revision` (None or 0: must not exist); raise Conflict else."""
        self._check()
        entry = self.entries.get((environment, route.model))
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict(route.model)
        if (entry.revision if entry else 0) != (revision or 0):
            raise Conflict(route.model)
        self.set(environment, route)

    def set(self, environment: str, route: Route) -> None:
        """Write a route, whatever was there."""
        again = Route.model_validate_json(route.model_dump_json())
        self.history.append((environment, again))
        self.entries[environment, route.model] = Entry(again, len(self.history))

    def _check(self) -> None:
        if self.lost:
            raise Transient("bus_unavailable", "The message bus does not answer: lost.")


class FakeDrills:
    """The drill of each model and environment."""

    def __init__(self) -> None:
        self.drills: dict[str, Drill] = {}

    async def get(self, environment: str, model: str) -> Drill | None:
        """Read the drill of a model and environment, on or over."""
        return self.drills.get(record_key(environment, model))

    async def put(self, drill: Drill) -> None:
        """Make this the drill of its model and environment."""
        self.drills[record_key(drill.environment, drill.target.model)] = drill


class FakeProbe:
    """Engines that generate, hold no such target, or hang."""

    def __init__(self, *, deadline_s: float = 5.0) -> None:
        self.deadline_s = deadline_s
        self.takes_s = 0.0
        self.unloaded: set[str] = set()
        self.hanging: set[str] = set()
        self.gone: set[str] = set()
        self.asked: list[str] = []

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None when so many of the target's endpoints generate a token in time, else why the others do not."""
        name = str(served.target)
        self.asked.append(name)
        endpoints = ", ".join(served.endpoints)
        if name in self.hanging:
            await asyncio.sleep(self.deadline_s)
            return f"{endpoints}: no token within {self.deadline_s:g} s"
        await asyncio.sleep(self.takes_s)
        generating = [each for each in served.endpoints if each not in self.gone and name not in self.unloaded]
        return f"{endpoints}: {name} is not loaded there" if len(generating) < least else None


class FakeFlow:
    """Requests that are being sent."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last_failure = ""


class FakeTraffic:
    """A gateway that answers each request after a while, refuses it, or is silent."""

    def __init__(self, *, rps: float = 4.0) -> None:
        self.rps = rps
        self.mode: Literal["well", "refusing", "silent"] = "well"
        self.answers_s = 0.05
        self.flows = 0
        self.open = 0

    @asynccontextmanager
    async def flow(self, model: str) -> AsyncGenerator[FakeFlow, None]:
        """Send requests at a steady rate for as long as the context lasts."""
        flow = FakeFlow()
        self.flows += 1
        self.open += 1
        sending = asyncio.create_task(self._send(model, flow))
        try:
            yield flow
        finally:
            self.open -= 1
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, model: str, flow: FakeFlow) -> None:
        while True:
            if self.mode == "refusing":
                flow.last_failure = "the gateway answered 503: the engine is dead"
            elif self.mode == "well":
                await self.answer(model)
                flow.seconds.append(self.answers_s)
            await asyncio.sleep(1.0 / self.rps)

    async def answer(self, model: str) -> None:
        """Do what an answered request leads to; nothing here."""
