"""The rollback-controller's handlers: read, ask the domain, act, publish. Failure belongs to `shared.messaging.bus`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog

from contracts.codes import Code
from contracts.drills import LONGEST, Drill
from contracts.envelope import Event
from contracts.facts import (
    AlertRaised,
    AlertUpdated,
    CanaryAssessed,
    DeploymentChanged,
    DrillOrdered,
    InferenceBatch,
    OrderRefused,
    QuarantineLifted,
    RehearsalCompleted,
    RehearsalRequested,
    ReleaseFinished,
    ReleaseOpened,
    RollbackFailed,
    RollbackOrdered,
    RollbackTimeline,
    VariantStaged,
)
from contracts.routes import Route
from contracts.vocabulary import Environment
from decisions.clocks import offset_s, put_right
from decisions.route_edits import Changed, Refused, lift_quarantine, roll_back
from services.rollback_controller.domain import decision as deciding
from services.rollback_controller.domain import execution as walking
from services.rollback_controller.domain import rehearsal_plan as rehearsing
from services.rollback_controller.domain.decision import Cause, NotServing, Rules
from services.rollback_controller.domain.record import Book, Rollback, rollback_id
from services.rollback_controller.ports import Alerts, Drills, Probe, Routes
from services.rollback_controller.rehearsal import Rehearsal
from shared.errors import Permanent, Transient, translate
from shared.messaging.bus import Bus, Failed, Received, stored_at
from shared.messaging.ledger import Ledger
from shared.messaging.orders import check_age, check_epoch, order_refused
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.storage.kv import Conflict

SERVICE = "rollback-controller"
ENVIRONMENTS: tuple[Environment, Environment] = ("production", "staging")
_ATTEMPTS = 50
_RESUMED = timedelta(seconds=2)
"""Older decisions are those of a process that has died: they are looked at again before they are carried out."""
_AT_ONCE = 8


@dataclass(frozen=True)
class Controller:
    """What the rollback-controller does with each kind of fact, and between them."""

    ledger: Ledger[Book]
    routes: Routes
    drills: Drills
    alerts: Alerts
    probe: Probe
    clock: Clock
    rules: Rules
    _under_way: set[str] = field(default_factory=set)

    async def learn(self, event: Event[ReleaseOpened]) -> None:
        """Learn a version's triggers while all is well: nobody can be asked once it is not."""
        for environment in ENVIRONMENTS:
            await self.ledger.apply(environment, event.subject, lambda book: deciding.learn(book, event.data))

    async def alerted(self, event: Event[AlertRaised] | Event[AlertUpdated], received: Received | None = None) -> None:
        """Decide what an alert leads to, and do it; one that is old, or was resolved since, leads nowhere."""
        stored, now = received.stored_at if received is not None else event.time, self.clock.now()
        if (now - min(stored, event.time)).total_seconds() >= self.rules.alert_s:
            structlog.get_logger().warning(
                "the alert is old; if it is not, a clock is wrong",
                model=event.subject,
                alert=event.data.alert_id,
                said_at=event.time.isoformat(),
                stored_at=stored.isoformat(),
                now=now.isoformat(),
            )
            return
        sequence = received.sequence if received is not None else 0
        if await self.alerts.resolved_since(event.environment, event.subject, event.data.alert_id, sequence):
            structlog.get_logger().info("the alert is resolved", model=event.subject, alert=event.data.alert_id)
            return
        await self._ask(
            event, lambda book, route, cause: deciding.take_alert(book, event.data, route, cause, self.rules), received
        )

    async def assessed(self, event: Event[CanaryAssessed]) -> None:
        """Take back a canary that failed its test."""
        await self._ask(event, lambda book, route, cause: deciding.take_assessment(book, event.data, route, cause))

    async def finished(self, event: Event[ReleaseFinished]) -> None:
        """Take back the canary of a release that ended otherwise than promoted."""
        await self._ask(event, lambda book, route, cause: deciding.take_finish(book, event.data, route, cause))

    async def ordered(self, event: Event[RollbackOrdered], received: Received | None = None) -> None:
        """Do what a person ordered; raise Permanent when the order is void."""
        refused: list[NotServing] = []

        def decide(book: Book, route: Route | None, cause: Cause) -> Book:
            decided = deciding.take_order(book, event.data, route, cause, self.rules)
            if isinstance(decided, NotServing):
                refused.append(decided)
                return book
            return decided

        await self._ask(event, decide, received)
        if refused:
            raise Permanent(refused[0].code, refused[0].reason)

    async def _ask(
        self, event: Event[Any], decide: Callable[[Book, Route | None, Cause], Book], received: Received | None = None
    ) -> None:
        environment, model = event.environment, event.subject
        entry = await self.routes.get(environment, model)
        route = entry.value if entry else None
        stored = (received.stored_at, received.sequence) if received is not None else (None, 0)
        cause = Cause(event.id, event.correlationid, event.time, self.clock.now(), *stored)
        book = await self.ledger.write(environment, model, lambda book: decide(book, route, cause))
        failpoint(f"{SERVICE}.after_decision")
        await self.carry_out(book)  # before anything is published: a log that is full must not keep traffic where it is
        await self.ledger.apply(environment, model, lambda book: book)

    async def carry_out(self, book: Book) -> None:
        """Walk every way back that is decided and not done."""
        for one in walking.to_carry_out(book):
            if one.rollback_id not in self._under_way:
                self._under_way.add(one.rollback_id)
                try:
                    await self._switch(book.environment, book.model, one)
                finally:
                    self._under_way.discard(one.rollback_id)

    async def _switch(self, environment: Environment, model: str, one: Rollback) -> None:
        """Probe where traffic would go, flip the route, say so. Killed in between, the same flip is not made twice."""
        for _ in range(_ATTEMPTS):
            entry = await self.routes.get(environment, model)
            route = entry.value if entry else Route(model=model)
            edit = roll_back(route, one.failed, cause_id=one.rollback_id, to_version=one.to_version)
            if isinstance(edit, Refused):
                code = "not_in_traffic" if edit.code == "stale_epoch" else edit.code
                await self._fail(environment, model, one, code, edit.reason)
                return
            if isinstance(edit, Changed):
                void = await self._void(environment, route, one)
                if void is not None:
                    await self._fail(environment, model, one, *void)
                    return
                if edit.cause == "rollback" and not await self._is_hot(environment, model, one, edit.route):
                    return
                try:
                    await self.routes.put(environment, edit.route, entry.revision if entry else None)
                except Conflict:
                    continue
            failpoint(f"{SERVICE}.after_flip")
            await self._note_switch(environment, one, edit.route)
            return
        raise Transient("bus_unavailable", f"The route of {model} kept changing.")

    async def _void(self, environment: Environment, route: Route, one: Rollback) -> tuple[Code, str] | None:
        """Return why a rollback that was decided a while ago, by a process that has died, is not carried out."""
        age = self.clock.now() - (one.timeline.decided_at or one.timeline.detected_at)
        if age < _RESUMED:
            return None
        if age >= timedelta(seconds=self.rules.decided_s):
            return "order_expired", f"It was decided {age.total_seconds():.0f} s ago and never carried out."
        void = deciding.void_since(one, route, self.clock.now())
        if void is not None:
            return void.code, void.reason
        alert = one.alert_id if one.asked == "alert" else ""
        if alert and await self.alerts.resolved_since(environment, route.model, alert, one.cause_sequence):
            return "alert_resolved", f"The alert {alert} was resolved before traffic moved."
        return None

    async def _note_switch(self, environment: Environment, one: Rollback, route: Route) -> None:
        now, aborted = self.clock.now(), route.canary is not None and route.canary.served.target == one.failed
        cause: Literal["abort", "rollback"] = "abort" if aborted else "rollback"
        await self.ledger.apply(
            environment, route.model, lambda book: walking.switched(book, one.rollback_id, route, cause, now)
        )
        to = str(route.active.target) if route.active else None
        structlog.get_logger().info(
            "traffic moved", model=route.model, environment=environment, failed=str(one.failed), to=to
        )

    async def _is_hot(self, environment: Environment, model: str, one: Rollback, after: Route) -> bool:
        to = after.active
        why = await self.probe.answers(to) if to is not None else "there is none"
        if why is None:
            return True
        where = to.target if to is not None else "the previous target"
        await self._fail(environment, model, one, "previous_not_ready", f"{where} does not generate: {why}")
        return False

    async def _fail(self, environment: Environment, model: str, one: Rollback, code: Any, reason: str) -> None:
        now = self.clock.now()
        await self.ledger.apply(
            environment, model, lambda book: walking.failed(book, one.rollback_id, code, reason, now)
        )

    async def measure(self, event: Event[InferenceBatch], stored: datetime | None = None) -> None:
        """Look at live requests, where a switch waits to be verified; at the bus's time if its gateway's is wrong."""
        now = self.clock.now()
        records = put_right(event.data.records, 0.0 if stored is None else offset_s(event.time, stored))
        await self.ledger.apply(
            event.environment,
            event.subject,
            lambda book: walking.take_records(book, records, now, self.rules),
        )

    async def lift(self, event: Event[QuarantineLifted], stored: datetime | None = None) -> DeploymentChanged | None:
        """Allow a quarantined target again; raise Permanent when the order is void."""
        for _ in range(_ATTEMPTS):
            entry = await self.routes.get("production", event.subject)
            if entry is None or entry.value.cause_id != event.id:  # else it is done, and only said again
                check_age(event, stored or event.time, self.clock.now(), until=event.data.expires_at)
                check_epoch(event, entry.value.epoch if entry else None)
            if entry is None:
                raise Permanent(
                    "not_quarantined", f"{event.subject} has no route; {event.data.target} is not quarantined."
                )
            edit = lift_quarantine(entry.value, event.data.target, cause_id=event.id)
            if isinstance(edit, Refused):
                raise Permanent("not_quarantined", edit.reason)
            if isinstance(edit, Changed):
                try:
                    await self.routes.put("production", edit.route, entry.revision)
                except Conflict:
                    continue
            return DeploymentChanged(route=edit.route, cause="restore", at=self.clock.now())
        raise Transient("bus_unavailable", f"The route of {event.subject} kept changing.")

    async def drill(self, event: Event[DrillOrdered], stored: datetime | None = None) -> None:
        """Put the ordered fault where gateways look for it; raise Permanent when the order is void.

        An order that comes again after a later one changes nothing. The end of a drill that is over is no expiry of the
        order to stop it: that counts as long as any order without one.
        """
        order, now, stored = event.data, self.clock.now(), stored or event.time
        before = await self.drills.get(order.environment, event.subject)
        if before is not None and before.ordered_at is not None and stored <= before.ordered_at:
            return
        check_age(event, stored, now, until=order.expires_at if order.share_ratio > 0.0 else None)
        route = await self.routes.get(order.environment, event.subject)
        check_epoch(event, route.value.epoch if route else None)
        if order.target.model != event.subject:
            raise Permanent("malformed_event", f"The drill on {order.target} was ordered for {event.subject}.")
        if order.fault.does_nothing and order.share_ratio > 0.0:
            raise Permanent("malformed_event", "The drill has no fault; give delay_ms, error_ratio, garble or answer.")
        if order.expires_at - now > LONGEST:
            until = order.expires_at.isoformat()
            raise Permanent("malformed_event", f"A drill lasts at most {LONGEST}; this one would end at {until}.")
        await self.drills.put(
            Drill(
                drill_id=event.id,
                target=order.target,
                environment=order.environment,
                fault=order.fault,
                share_ratio=order.share_ratio,
                starts_at=min(event.time, now),
                expires_at=order.expires_at,
                actor=order.actor,
                reason=order.reason,
                ordered_at=stored,
            )
        )

    async def sweep(self) -> None:
        """Do what an earlier process left undone, and end verifications that no traffic comes for."""
        for environment, model in await self.ledger.kept():
            try:
                book = await self.ledger.write(environment, model, lambda book: book)
                await self.carry_out(book)
                book = await self.ledger.apply(environment, model, lambda book: book)
                for one in walking.overdue(book, self.clock.now(), self.rules):
                    await self._give_up_waiting(book, one)
            except Exception as error:
                known = translate(error)
                log = structlog.get_logger().bind(model=model, environment=environment)
                if known is None:
                    log.exception("could not sweep")
                else:
                    log.warning("could not sweep", code=known.code, reason=known.reason)

    async def _give_up_waiting(self, book: Book, one: Rollback) -> None:
        entry = await self.routes.get(book.environment, book.model)
        active = entry.value.active if entry else None
        answers = active is not None and active.target == one.to and await self.probe.answers(active) is None
        now: datetime = self.clock.now()
        await self.ledger.apply(
            book.environment,
            book.model,
            lambda book: walking.give_up_waiting(book, one.rollback_id, answers=answers, now=now),
        )

    async def keep_sweeping(self, every_s: float) -> None:
        """Sweep for ever; the first time at once."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                known = translate(error)
                if known is None:
                    raise
                structlog.get_logger().warning("could not sweep", code=known.code, reason=known.reason)
            await asyncio.sleep(every_s)


def build(bus: Bus, *, controller: Controller, rehearsal: Rehearsal) -> None:
    """Subscribe the handlers."""
    _watch(bus, controller)
    _follow_releases(bus, controller, rehearsal)
    _take_orders(bus, controller)


def _watch(bus: Bus, controller: Controller) -> None:
    """Hear what goes wrong, and how requests fare; of staging beside production."""
    for environment in ENVIRONMENTS:

        @bus.on(AlertRaised, environment=environment, max_workers=_AT_ONCE)
        async def raised(event: Event[AlertRaised]) -> None:
            await controller.alerted(event, bus.received)

        @bus.on(AlertUpdated, environment=environment)
        async def updated(event: Event[AlertUpdated]) -> None:
            await controller.alerted(event, bus.received)

        @bus.on(InferenceBatch, environment=environment)
        async def measure(event: Event[InferenceBatch]) -> None:
            await controller.measure(event, stored_at())


def _follow_releases(bus: Bus, controller: Controller, rehearsal: Rehearsal) -> None:
    @bus.on(ReleaseOpened)
    async def learn(event: Event[ReleaseOpened]) -> None:
        await controller.learn(event)

    @bus.on(CanaryAssessed)
    async def assessed(event: Event[CanaryAssessed]) -> None:
        await controller.assessed(event)

    @bus.on(ReleaseFinished)
    async def finished(event: Event[ReleaseFinished]) -> None:
        await controller.finished(event)

    @bus.on(RehearsalRequested)
    async def rehearsal_asked(event: Event[RehearsalRequested]) -> None:
        await controller.ledger.apply("production", event.subject, lambda book: rehearsing.ask(book, event.data))

    @bus.on(VariantStaged)
    async def rehearse(event: Event[VariantStaged]) -> RehearsalCompleted | None:
        return await rehearsal.rehearse(event)


def _take_orders(bus: Bus, controller: Controller) -> None:
    @bus.on(RollbackOrdered, failure=order_failed)
    async def ordered(event: Event[RollbackOrdered]) -> None:
        await controller.ordered(event, bus.received)

    @bus.on(QuarantineLifted, failure=order_refused)
    async def lifted(event: Event[QuarantineLifted]) -> DeploymentChanged | None:
        return await controller.lift(event, stored_at())

    @bus.on(DrillOrdered, failure=order_refused)
    async def drill(event: Event[DrillOrdered]) -> None:
        await controller.drill(event, stored_at())


def order_failed(failed: Failed) -> RollbackFailed | OrderRefused | None:
    """Return the fact that an order of a rollback which is not carried out becomes."""
    event, error = failed.event, failed.error
    if event is None or event.data.failed is None:
        return order_refused(failed)
    return RollbackFailed(
        rollback_id=rollback_id(event.id),
        cause_id=event.id,
        failed=event.data.failed,
        mode="manual",
        timeline=RollbackTimeline(detected_at=event.time),
        code=error.code,
        reason=error.sentence(),
    )
