"""Drains endpoints: answers administrators' orders, and moves production targets away one by one."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import structlog

from contracts.envelope import Event
from contracts.facts import EndpointOrdered, OrderAccepted, OrderRefused
from contracts.records import outbox_entry
from contracts.routes import Route
from contracts.runtimes import FleetRuntime
from contracts.vocabulary import Deployable
from services.server_manager.domain import staging
from services.server_manager.domain.drains import (
    Refusal,
    Transfer,
    Waits,
    answer_endpoint_order,
    assess_endpoint_order,
    names_drained,
    plan_transfer,
)
from services.server_manager.domain.moves import find_removed
from services.server_manager.domain.placement import find_lost
from services.server_manager.domain.reconcile import Held, Key, Limits, Phase, plan_standing
from services.server_manager.domain.records import Servers
from services.server_manager.domain.runtimes import describe_endpoint_view
from services.server_manager.executor import Executor
from services.server_manager.fleet_state import FleetState
from services.server_manager.placement import Placement
from services.server_manager.ports import Engines
from shared.runtime.clock import Clock

OVERDUE_S = 10.0
"""Seconds that a ready copy may wait for the edit of its route before the drain reports a delay."""


class Drains:
    """Drains of endpoints by the leader: orders, transfers and their obstacles."""

    def __init__(
        self,
        executor: Executor,
        placement: Placement,
        *,
        state: FleetState,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._executor = executor
        self._placement = placement
        self._state = state
        self._clock = clock
        self._limits = limits
        self._transfers: dict[str, Transfer] = {}
        """Transfers of targets from drained endpoints, in progress or failed, by target name."""
        self.loaded: set[Key] = set()
        """Replicas of transfers to load now; the others failed recently."""
        self._removed: dict[str, str] = {}
        self.waits: dict[str, str] = {}
        """Why a drained endpoint is not empty yet, by endpoint name."""

    async def answer_orders(self, record: Servers, routes: Mapping[str, Route], answering: Collection[str]) -> None:
        """Carry out or refuse each endpoint order, once every answering endpoint has listed its targets."""
        if not self._executor.known >= set(answering):
            return
        for order in record.endpoint_orders:
            record = await self._state.read()
            fleet = replace(self._placement.fleet(record, routes), answering=answering)
            refusal = assess_endpoint_order(order, record, plan_standing(routes), fleet, self._clock.now())
            await self._answer(order.event, refusal)

    async def _answer(self, event: Event[EndpointOrdered], refusal: Refusal | None) -> None:
        fact: OrderAccepted | OrderRefused = OrderAccepted(order_id=event.id, order_type=event.type)
        if refusal is not None:
            fact = OrderRefused(order_id=event.id, order_type=event.type, code=refusal.code, reason=refusal.reason)
        entry = outbox_entry(
            fact,
            model=event.subject,
            cause_id=event.id,
            correlation_id=event.correlationid,
            environment=event.environment,
            decided_at=self._clock.now(),
        )
        await self._state.write(
            lambda record: staging.publish_if_changed(
                record, answer_endpoint_order(record, event.id, carried_out=refusal is None), entry
            )
        )
        structlog.get_logger().warning(
            "an endpoint is drained" if event.data.drained else "an endpoint is used again",
            endpoint=event.data.endpoint,
            actor=event.sender,
            reason=event.data.reason,
            refused=refusal.reason if refusal is not None else None,
        )

    def note_removed(self, routes: Mapping[str, Route], removed: Collection[str]) -> None:
        """Log changes of the production targets on removed endpoints; `removed` has their addresses."""
        left = find_removed(routes, removed)
        if left and left != self._removed:
            structlog.get_logger().error(
                "production is on endpoints that are not configured any more: it is loaded on others where they have "
                "the memory, and their routes edited; drain an endpoint before it is removed",
                targets=left,
            )
        self._removed = left

    def transferred(self, usable: Collection[str]) -> dict[str, str]:
        """Return the endpoint of each transferred target's ready copy, by target name."""
        others = self._executor.others()
        return {
            name: transfer.endpoint
            for name, transfer in self._transfers.items()
            if (copy := others.get(transfer.key)) is not None
            if copy.phase is Phase.READY and copy.listed and copy.endpoint in usable
        }

    def plan(
        self,
        record: Servers,
        routes: Mapping[str, Route],
        usable: Collection[str],
        kept: Collection[str],
        down: Mapping[str, float],
    ) -> dict[Key, Deployable]:
        """Plan the next transfer from a drained endpoint; return the replicas of all transfers.

        One target is transferred at a time; `loaded` has the replicas to load now.

        Args:
            record: the fleet's record.
            routes: the routes by model.
            usable: endpoints that answer and have listed their targets.
            kept: targets that must not change.
            down: seconds of silence by endpoint.
        """
        drained, held, others = names_drained(record), self._executor.held(), self._executor.others()
        unusable = drained | find_lost(down, self._limits)

        def is_current(transfer: Transfer) -> bool:
            home = held.get(transfer.name)
            is_there = home is not None and home.endpoint == transfer.source and home.phase is not Phase.FAILED
            has_begun = transfer.key in others
            return is_there and has_begun and transfer.source in drained and transfer.endpoint not in unusable

        self._transfers = {name: transfer for name, transfer in self._transfers.items() if is_current(transfer)}
        copies = {name: others[transfer.key] for name, transfer in self._transfers.items()}
        failed = {name: copy for name, copy in copies.items() if copy.phase is Phase.FAILED}
        self._note_waits(copies, usable, drained)
        self.loaded = {self._transfers[name].key for name in self._transfers.keys() - failed.keys()}
        if drained and failed.keys() == self._transfers.keys():
            again = {name for name, copy in failed.items() if copy.since_s >= self._limits.retry_after_s(copy.failures)}
            skipped = {*(failed.keys() - again), *kept}
            fleet = replace(self._placement.fleet(record, routes), answering=usable)
            planned = plan_transfer(plan_standing(routes), fleet, skipped)
            if isinstance(planned, Waits):
                self.waits[planned.endpoint] = planned.reason
            elif planned is not None:
                self._transfers[planned.name] = planned
                self.loaded = {planned.key}
        return {transfer.key: transfer.deployable for transfer in self._transfers.values()}

    def _note_waits(self, copies: Mapping[str, Held], usable: Collection[str], drained: Collection[str]) -> None:
        self.waits = {}
        for name, copy in copies.items():
            transfer = self._transfers[name]
            if copy.phase is Phase.FAILED:
                self.waits[transfer.source] = f"{name} could not be loaded elsewhere: {copy.reason}"
            elif copy.phase is Phase.READY and copy.since_s >= OVERDUE_S:
                self.waits[transfer.source] = _describe_overdue(transfer, usable)
        self._note_failed_copies(drained)

    def _note_failed_copies(self, drained: Collection[str]) -> None:
        """Record the obstacle for copies on drained endpoints if their replacement failed to load."""
        for (endpoint, name), reason in self._placement.failed().items():
            for where, of in self._executor.copies():
                if of == name and where in drained:
                    self.waits[where] = f"a copy of {name} could not be loaded on {endpoint}: {reason}"

    def describe_endpoints(
        self,
        engines: Engines,
        record: Servers,
        routes: Mapping[str, Route],
        answering: Collection[str],
        fenced: Collection[str],
    ) -> tuple[FleetRuntime, ...]:
        """Return the public view of every endpoint."""
        drained = {marked.name: marked for marked in record.drained}
        homes = {(state.endpoint, name): state for name, state in self._executor.held().items()}
        replicas, serving = homes | self._executor.others(), homes.keys() | self._placement.due(routes).keys()
        return tuple(
            describe_endpoint_view(
                name,
                engine.endpoint,
                engine.runtime,
                replicas,
                serving,
                limits=self._limits,
                answers=name in answering,
                drained=drained.get(name),
                waits=self.waits.get(name, ""),
                fenced=name in fenced,
                now=self._clock.now(),
            )
            for name, engine in engines.items()
        )

    def forget(self) -> None:
        """Drop all transfers, because another process leads."""
        self._transfers, self.waits = {}, {}


def _describe_overdue(transfer: Transfer, usable: Collection[str]) -> str:
    obstacle = (
        "its route could not be edited: see the log of server-manager."
        if transfer.endpoint in usable
        else f"{transfer.endpoint} does not answer."
    )
    return f"{transfer.name} generates on {transfer.endpoint} and is not served there yet: {obstacle}"
