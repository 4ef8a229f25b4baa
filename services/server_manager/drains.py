"""Drains endpoints: answers the orders, and loads elsewhere what they serve of production, one target after another."""

from collections.abc import Collection, Mapping

import structlog

from contracts.envelope import Event
from contracts.facts import EndpointOrdered, OrderAccepted, OrderRefused
from contracts.records import outbox_entry
from contracts.routes import Route
from contracts.runtimes import FleetRuntime
from services.server_manager.declared_copies import DeclaredCopies
from services.server_manager.domain import staging
from services.server_manager.domain.drains import (
    Fleet,
    Refusal,
    Transfer,
    Waits,
    answer_endpoint_order,
    assess_endpoint_order,
    names_drained,
    plan_transfer,
)
from services.server_manager.domain.moves import Copy, find_removed
from services.server_manager.domain.placement import find_counterparts, find_lost
from services.server_manager.domain.reconcile import Held, Limits, Phase, plan_standing
from services.server_manager.domain.records import Servers
from services.server_manager.domain.runtimes import describe_endpoint_view
from services.server_manager.executor import Executor
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import Engines
from services.server_manager.transfers import Transfers
from shared.runtime.clock import Clock


class Drains:
    """What the leader does about endpoints that an administrator drains."""

    def __init__(
        self,
        executor: Executor,
        transfers: Transfers,
        declared: DeclaredCopies,
        *,
        state: FleetState,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._executor = executor
        self._transfers = transfers
        self._declared = declared
        self._state = state
        self._clock = clock
        self._limits = limits
        self._left: dict[tuple[str, str], float] = {}
        self._removed: dict[str, str] = {}
        self.waits: dict[str, str] = {}
        """Why an endpoint is not empty yet, by its name."""

    def copies(self) -> list[Copy]:
        """Return what endpoints hold, or are loading, of targets that another endpoint serves."""
        known = [*self._executor.copies(), *self._transfers.copies, *self._declared.copies]
        return list({(copy.endpoint, copy.name): copy for copy in reversed(known)}.values())

    def _fleet(self, record: Servers, routes: Mapping[str, Route], answering: Collection[str]) -> Fleet:
        return Fleet(
            production=plan_standing(routes),
            held=self._executor.held(),
            copies=self.copies(),
            apart=find_counterparts(record, routes),
            answering=answering,
            serving=self._declared.ready(answering),
            arriving=self._declared.arriving(routes),
        )

    async def answer_orders(self, record: Servers, routes: Mapping[str, Route], answering: Collection[str]) -> None:
        """Carry out or refuse each order, and publish the answer with the change; before all have listed, they wait."""
        if not self._executor.known >= set(answering):
            return
        for order in record.endpoint_orders:
            record = await self._state.read()
            refusal = assess_endpoint_order(
                order, record, self._fleet(record, routes, answering), self._limits, self._clock.now()
            )
            await self._answer(order.event, refusal)

    async def _answer(self, event: Event[EndpointOrdered], refusal: Refusal | None) -> None:
        about = {"order_id": event.id, "order_type": event.type}
        fact: OrderAccepted | OrderRefused = OrderAccepted(**about)
        if refusal is not None:
            fact = OrderRefused(**about, actor=event.sender, code=refusal.code, reason=refusal.reason)
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

    def note_removed(self, routes: Mapping[str, Route], removed: Collection[str]) -> Collection[str]:
        """Log what of production is on endpoints that are not configured any more; return the addresses of those."""
        left = find_removed(routes, removed)
        if left and left != self._removed:
            structlog.get_logger().error(
                "production is on endpoints that are not configured any more: it is loaded on others where they have "
                "the memory, and their routes edited; drain an endpoint before it is removed",
                targets=left,
            )
        self._removed = left
        return removed

    def transferred(self, usable: Collection[str]) -> dict[str, str]:
        """Return the endpoint on which a target generates that another endpoint still serves, by the target's name."""
        ready = self._transfers.ready(self._executor.copies())
        return {transfer.name: transfer.endpoint for transfer in ready if transfer.endpoint in usable}

    def begin(
        self,
        record: Servers,
        routes: Mapping[str, Route],
        usable: Collection[str],
        kept: Collection[str],
        down: Mapping[str, float],
    ) -> None:
        """Begin to load the next target elsewhere, one at a time; drop what is not needed any more, and what is lost.

        Args:
            record: the fleet's record.
            routes: the routes by model.
            usable: the endpoints that answer and have listed what they hold.
            kept: targets that stay as they are.
            down: the seconds for which endpoints have been silent, by name.
        """
        drained, held = names_drained(record), self._executor.held()

        def is_current(transfer: Transfer) -> bool:
            state = held.get(transfer.name)
            is_there = state is not None and state.endpoint == transfer.source and state.phase is not Phase.FAILED
            return is_there and transfer.source in drained and transfer.endpoint not in drained

        self._transfers.keep_only(is_current, lambda transfer, since: self._find_loss(transfer, since, down))
        self.waits = {}
        if not drained:
            return
        failed = self._transfers.waiting()
        self._note_waits(failed, held, usable, drained)
        if self._transfers.under_way:
            return
        fleet = self._fleet(record, routes, usable)
        planned = plan_transfer(fleet, self._limits, drained, {*failed, *kept})
        if isinstance(planned, Waits):
            self.waits[planned.endpoint] = planned.reason
        elif planned is not None:
            self._transfers.begin(planned)

    def _find_loss(self, transfer: Transfer, since: float, down: Mapping[str, float]) -> str | None:
        """Return why what was ready on another endpoint at a time is not there any more; None if it may be."""
        if transfer.endpoint in find_lost(down, self._limits):
            return f"{transfer.endpoint}, which had it, has been silent for {down[transfer.endpoint]:.0f} s."
        if self._executor.has_lost(transfer.copy, since):
            return f"it was gone from {transfer.endpoint} before its route was edited."
        return None

    def _note_waits(
        self, failed: Mapping[str, str], held: Mapping[str, Held], usable: Collection[str], drained: Collection[str]
    ) -> None:
        for name, reason in failed.items():
            if name in held:
                self.waits[held[name].endpoint] = f"{name} could not be loaded elsewhere: {reason}"
        for transfer in self._transfers.overdue():
            self.waits[transfer.source] = _describe_overdue(transfer, usable)
        self._note_failed_copies(drained)

    def _note_failed_copies(self, drained: Collection[str]) -> None:
        """Note what keeps copies on drained endpoints: the one that is to replace them could not be loaded."""
        for (endpoint, name), reason in self._declared.failed().items():
            for copy in self._executor.copies():
                if copy.name == name and copy.endpoint in drained:
                    self.waits[copy.endpoint] = f"a copy of {name} could not be loaded on {endpoint}: {reason}"

    def may_remove(self, copy: Copy) -> bool:
        """Return whether a copy may be unloaded: not while it is taken over, nor at once where it may have served."""
        if any(
            (transferred.endpoint, transferred.name) == (copy.endpoint, copy.name)
            for transferred in self._transfers.copies
        ):
            return False
        key, now = (copy.endpoint, copy.name), self._clock.monotonic()
        return now - self._left.setdefault(key, now) >= self._limits.linger_s

    def note_copies(self, removable: Collection[Copy]) -> None:
        """Forget since when copies are not needed that are gone, or needed again."""
        keys = {(copy.endpoint, copy.name) for copy in removable}
        self._left = {key: at for key, at in self._left.items() if key in keys}

    def describe_endpoints(
        self, engines: Engines, record: Servers, answering: Collection[str], fenced: Collection[str]
    ) -> tuple[FleetRuntime, ...]:
        """Return every endpoint as others may see it."""
        drained, held, copies = {marked.name: marked for marked in record.drained}, self._executor.held(), self.copies()
        return tuple(
            describe_endpoint_view(
                name,
                engine.endpoint,
                engine.runtime,
                held,
                self._limits,
                answers=name in answering,
                copies=copies,
                drained=drained.get(name),
                waits=self.waits.get(name, ""),
                declared=self._declared.phases(name),
                fenced=name in fenced,
                now=self._clock.now(),
            )
            for name, engine in engines.items()
        )

    async def stop(self) -> None:
        """Cancel what is being done and forget everything: another process leads."""
        self._left, self.waits = {}, {}
        await self._transfers.stop()


def _describe_overdue(transfer: Transfer, usable: Collection[str]) -> str:
    obstacle = (
        "its route could not be edited: see the log of server-manager."
        if transfer.endpoint in usable
        else f"{transfer.endpoint} does not answer."
    )
    return f"{transfer.name} generates on {transfer.endpoint} and is not served there yet: {obstacle}"
