"""Decides, executes and verifies rollbacks: from an event to the switched route and its verification."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog

from contracts.codes import Code
from contracts.envelope import Event
from contracts.facts import (
    AlertRaised,
    AlertUpdated,
    CanaryAssessed,
    InferenceBatch,
    ReleaseFinished,
    ReleaseOpened,
    RollbackOrdered,
    ShadowAssessed,
)
from contracts.routes import Route
from contracts.teams import Team
from contracts.vocabulary import ENVIRONMENTS, Environment
from decisions.clocks import offset_s, put_right
from decisions.rollback.rule import Standby, assess_standby, plan_standby, replicas_needed, rollback_id
from decisions.routes.edits import Changed, EditRefused, put_back
from services.rollback_controller.domain import decision, execution
from services.rollback_controller.domain.decision import Cause, VoidOrder
from services.rollback_controller.domain.record import Rollback, RollbackState, Rules, record_policy
from services.rollback_controller.ports import Alerts, RememberedProbe, Routes
from services.rollback_controller.states import KnownPolicies, RollbackStates
from shared.errors import Permanent, Transient
from shared.messaging.bus import Received
from shared.messaging.orders import check_sender
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.storage.compare_and_set import ATTEMPTS, kept_changing
from shared.storage.kv import Conflict, Entry

SERVICE = "rollback-controller"
_PUBLISH_S = 5.0
"""Seconds that a handler tries to publish its outbox; a hanging log fails a publication only after 50 s."""
_SEEN_S = 0.5
"""Seconds for which a read record and route may be used without reading again, such as after a probe."""
_RESUMED = timedelta(seconds=2)
"""Older decisions are of a process that died; they are assessed again before execution."""


@dataclass(frozen=True)
class _Seen:
    """Record and route of a model, read together; compare-and-set detects later changes of either."""

    state: RollbackState
    recorded: Entry[RollbackState] | None
    routed: Entry[Route] | None

    @property
    def route(self) -> Route | None:
        return self.routed.value if self.routed else None


@dataclass(frozen=True)
class Controller:
    """The rollback-controller's event handlers, and its periodic work.

    Attributes:
        states: The records with their outboxes.
        routes: The routes of production and staging.
        probe: Tests whether a target generates, now or within the last 10 s.
        teams: Returns the current teams.
    """

    states: RollbackStates
    routes: Routes
    alerts: Alerts
    probe: RememberedProbe
    clock: Clock
    rules: Rules
    teams: Callable[[], tuple[Team, ...]]
    policies: KnownPolicies
    _executing: set[str] = field(default_factory=set)

    # -- facts ------------------------------------------------------------------------------------------------------

    async def record_policy(self, event: Event[ReleaseOpened]) -> None:
        """Record a version's triggers when its release opens; registry and store may be down at a rollback."""
        opened = event.data
        for environment in ENVIRONMENTS:
            entry = await self.routes.get(environment, event.subject)
            route = entry.value if entry else None
            record = functools.partial(record_policy, version=opened.version, policy=opened.policy, route=route)
            await self.states.write(environment, event.subject, record)
            await self._publish(environment, event.subject)

    async def handle_alert(self, event: Event[AlertRaised] | Event[AlertUpdated], received: Received) -> None:
        """Decide on an alert and execute the decision; a stale or resolved alert starts nothing.

        Raises:
            Permanent: `sender_mismatch`: a trigger's alert does not come from the monitor.
        """
        foreign = decision.find_foreign(event.data, event.sender)
        if foreign is not None:
            raise Permanent("sender_mismatch", foreign)
        now, log = self.clock.now(), structlog.get_logger().bind(model=event.subject, alert=event.data.alert_id)
        if (now - min(received.stored_at, event.time)).total_seconds() >= self.rules.alert_s:
            log.warning(
                "the alert is old; if it is not, a clock is wrong",
                raised_at=event.time.isoformat(),
                stored_at=received.stored_at.isoformat(),
                now=now.isoformat(),
            )
            return
        environment, model, alert = event.environment, event.subject, event.data
        began_s = self.clock.monotonic()
        resolved, seen = await asyncio.gather(
            self.alerts.resolved_since(environment, model, alert.alert_id, received.sequence),
            self._look(environment, model),
        )
        if resolved:
            log.info("the alert is resolved")
            return
        if decision.lacks_policy(seen.state, alert, seen.route):
            await self.policies.complete(environment, model, seen.state, seen.route)
            seen = await self._look(environment, model)
        standby = await self._look_behind(alert, seen.route)

        def decide(state: RollbackState, route: Route | None, cause: Cause) -> RollbackState:
            if decision.lacks_policy(state, alert, route):
                reason = f"The policy of version {alert.target.version} of {model} is not known yet."
                raise Transient("bus_unavailable", reason)
            planned = plan_standby(route, alert) if route is not None else standby
            if not (isinstance(planned, Standby) or standby.suspended or standby.target == planned.target):
                raise Transient("bus_unavailable", f"{planned.target} became the previous version meanwhile.")
            return decision.decide_on_alert(state, alert, route, cause, self.rules, standby=standby)

        await self.decide(event, decide, received, seen if self.clock.monotonic() - began_s < _SEEN_S else None)

    async def _look(self, environment: Environment, model: str) -> _Seen:
        """Read record and route concurrently."""
        recorded, routed = await asyncio.gather(
            self.states.get(environment, model), self.routes.get(environment, model)
        )
        state = recorded.value if recorded else RollbackState(model=model, environment=environment)
        return _Seen(state, recorded, routed)

    async def _look_behind(self, alert: AlertRaised | AlertUpdated, route: Route | None) -> Standby:
        """Return the readiness of the version that an alert would move traffic to."""
        if route is None or not decision.takes_traffic(route, alert.target):
            return Standby("missing")
        served = plan_standby(route, alert)
        if isinstance(served, Standby):
            standby = served
        else:
            needed = replicas_needed(route.active) if route.active is not None and not alert.answers_nothing else 1
            failure = await self.probe.answered(served, needed)
            generates = failure is not None and needed > 1 and await self.probe.answered(served) is None
            standby = assess_standby(served, failure, generates=generates, needed=needed)
        if alert.answers_nothing and standby.behind in ("missing", "not_ready"):
            for suspension in put_back(route):
                if await self.probe.answered(suspension.served) is None:
                    return Standby(target=suspension.served.target, suspended=True)
        return standby

    async def handle_assessment(self, event: Event[CanaryAssessed] | Event[ShadowAssessed], received: Received) -> None:
        """Roll back a canary, or end a shadow, that failed its assessment."""
        await self.decide(
            event,
            lambda state, route, cause: decision.decide_on_assessment(state, event.data, route, cause),
            received,
        )

    async def handle_release_end(self, event: Event[ReleaseFinished], received: Received) -> None:
        """Roll back the canary, or end the shadow, of a release that ended without promotion."""
        await self.decide(
            event,
            lambda state, route, cause: decision.decide_on_release_end(state, event.data, route, cause),
            received,
        )

    async def handle_order(self, event: Event[RollbackOrdered], received: Received) -> None:
        """Carry out an operator's rollback order; raise Permanent if the order is void."""
        void: VoidOrder | None = None

        def decide(state: RollbackState, route: Route | None, cause: Cause) -> RollbackState:
            nonlocal void
            if state.rollback(rollback_id(event.id)) is None:  # a decided order is not checked again
                check_sender(event, self.teams())
            decided = decision.decide_on_order(state, event.data, route, cause, self.rules)
            if isinstance(decided, VoidOrder):
                void = decided
                return decision.record_refusal(state, event.data, route, cause, decided)
            void = None
            return decided

        await self.decide(event, decide, received)
        if void is not None:
            raise Permanent(void.code, void.reason)

    async def measure(self, event: Event[InferenceBatch], stored_at: datetime) -> None:
        """Count live requests for rollbacks that await verification; times are corrected to the bus's clock."""
        now, records = self.clock.now(), put_right(event.data.records, offset_s(event.time, stored_at))
        completed = False

        def assess(state: RollbackState) -> RollbackState:
            nonlocal completed
            after = execution.assess_requests(state, records, now, self.rules)
            completed = after.outbox != state.outbox
            return after

        await self.states.write(event.environment, event.subject, assess)
        if completed:
            await self._publish(event.environment, event.subject)

    async def decide(
        self,
        event: Event[Any],
        decide: Callable[[RollbackState, Route | None, Cause], RollbackState],
        received: Received,
        seen: _Seen | None = None,
    ) -> None:
        """Decide on an event by record and route, execute pending rollbacks, then publish the outbox."""
        environment, model = event.environment, event.subject
        seen = seen or await self._look(environment, model)
        route = seen.route
        cause = Cause(
            event.id,
            event.correlationid,
            event.time,
            self.clock.now(),
            received.stored_at,
            received.sequence,
            event.sender,
        )
        state = await self.states.write(environment, model, lambda state: decide(state, route, cause), seen.recorded)
        # Before publishing: a full log must not delay the switch.
        await self.execute_pending(state, seen.routed)
        await self._publish(environment, model)

    async def _publish(self, environment: Environment, model: str) -> None:
        """Publish the outbox; after `_PUBLISH_S` the rest is left to the sweep.

        Failing the handler instead would redeliver its message, and count telemetry twice.
        """
        try:
            async with asyncio.timeout(_PUBLISH_S):
                await self.states.publish(environment, model)
        except (Transient, TimeoutError) as error:
            structlog.get_logger().warning(
                "not published, left to the sweep", model=model, environment=environment, error=repr(error)
            )

    # -- execution --------------------------------------------------------------------------------------------------

    async def execute_pending(self, state: RollbackState, routed: Entry[Route] | None = None) -> None:
        """Execute every decided rollback; `routed` is the route if it was just read."""
        for rollback in execution.pending(state):
            if rollback.rollback_id not in self._executing:
                self._executing.add(rollback.rollback_id)
                try:
                    await self._execute(state.environment, state.model, rollback, routed)
                finally:
                    self._executing.discard(rollback.rollback_id)

    async def _execute(
        self, environment: Environment, model: str, rollback: Rollback, routed: Entry[Route] | None
    ) -> None:
        """Probe the standby, switch the route and record it; after a crash in between, only the record is written."""
        for attempt in range(ATTEMPTS):
            is_known = routed is not None and not attempt
            entry = routed if is_known else await self.routes.get(environment, model)
            route = entry.value if entry else Route(model=model)
            edit = execution.edit(rollback, route, self.clock.now())
            if isinstance(edit, EditRefused):
                if is_known:  # the route may have changed since
                    continue
                moved = await self._find_switch(environment, rollback, route)
                if moved is not None:
                    await self._record_switch(environment, rollback, moved)
                    return
                code: Code = "not_in_traffic" if edit.code == "stale_epoch" else edit.code
                await self._record_failure(environment, model, rollback, code, edit.reason)
                return
            if isinstance(edit, Changed):
                void = await self._assess_resumed(environment, route, rollback)
                if void is not None:
                    await self._record_failure(environment, model, rollback, *void)
                    return
                if edit.cause == "rollback" and not await self._is_ready(environment, model, rollback, edit.route):
                    return
                try:
                    await self.routes.put(environment, edit.route, entry.revision if entry else None)
                except Conflict:
                    continue
            failpoint(f"{SERVICE}.after_switch")
            await self._record_switch(environment, rollback, edit.route)
            return
        raise kept_changing(f"routes/{model}")

    async def _find_switch(self, environment: Environment, rollback: Rollback, route: Route) -> Route | None:
        """Return the route that a rollback wrote before its process died; None if it wrote none.

        If the bucket's history no longer has that route, the current route is returned.
        """
        moved = await self.routes.find(environment, route.model, rollback.rollback_id)
        if moved is None and execution.has_moved(await self.states.read(environment, route.model), rollback, route):
            return route
        return moved

    async def _assess_resumed(
        self, environment: Environment, route: Route, rollback: Rollback
    ) -> tuple[Code, str] | None:
        """Return why a rollback decided by a dead process is void; None to execute it."""
        age = self.clock.now() - (rollback.timeline.decided_at or rollback.timeline.detected_at)
        if timedelta() <= age < _RESUMED:
            return None
        if age >= timedelta(seconds=self.rules.decided_s):
            return "order_expired", f"It was decided {age.total_seconds():.0f} s ago and never carried out."
        void = decision.assess_order(rollback, route, self.clock.now())
        if void is not None:
            return void.code, void.reason
        alert_id = rollback.alert_id if rollback.origin == "alert" else ""
        if alert_id and await self.alerts.resolved_since(environment, route.model, alert_id, rollback.cause_sequence):
            return "alert_resolved", f"The alert {alert_id} was resolved before traffic moved."
        return None

    async def _is_ready(self, environment: Environment, model: str, rollback: Rollback, after: Route) -> bool:
        """Return whether the target that becomes active generates; if not, record the failure.

        For an alert, an answer of the last 10 s suffices. For an order the target is probed now: attached servers may
        have changed, and no alert would revert the order.
        """
        served = after.active
        ask = self.probe.answered if rollback.origin == "alert" else self.probe.answers
        failure = await ask(served, rollback.replicas) if served is not None else "there is none"
        if failure is None:
            return True
        name = served.target if served is not None else "the previous target"
        reason = f"{name} does not generate: {failure}"
        if rollback.origin == "alert":
            reason += "; traffic moves once it does, if the alert lasts"
        await self._record_failure(environment, model, rollback, "previous_not_ready", reason)
        return False

    async def _record_switch(self, environment: Environment, rollback: Rollback, route: Route) -> None:
        now = self.clock.now()
        tried = (share.served.target for share in (route.canary, route.shadow) if share is not None)
        aborted = rollback.origin == "release" or rollback.failed in tried
        cause: Literal["abort", "rollback"] = "abort" if aborted else "rollback"
        await self.states.write(
            environment,
            route.model,
            lambda state: execution.record_switch(state, rollback.rollback_id, route, cause, now),
        )
        structlog.get_logger().info(
            "traffic moved",
            model=route.model,
            environment=environment,
            failed=str(rollback.failed),
            to=str(route.active.target) if route.active else None,
        )

    async def _record_failure(
        self, environment: Environment, model: str, rollback: Rollback, code: Code, reason: str
    ) -> None:
        now = self.clock.now()
        await self.states.write(
            environment,
            model,
            lambda state: execution.record_failure(state, rollback.rollback_id, code, reason, now),
        )

    # -- between facts ----------------------------------------------------------------------------------------------

    async def sweep(self, key: tuple[Environment, str]) -> None:
        """Execute and publish what an earlier process left pending; end overdue verifications by a probe."""
        environment, model = key
        state = await self.states.read(environment, model)
        if state.outbox or execution.pending(state):
            await self.execute_pending(state)
            state = await self.states.publish(environment, model)
        for rollback in execution.overdue_verifications(state, self.clock.now(), self.rules):
            await self._verify_by_probe(state, rollback)

    async def _verify_by_probe(self, state: RollbackState, rollback: Rollback) -> None:
        """End a verification with too little traffic by probing the target."""
        entry = await self.routes.get(state.environment, state.model)
        active = entry.value.active if entry else None
        answers = None
        if active is not None and active.target == rollback.to:
            answers = await self.probe.answers(active) is None
        now = self.clock.now()
        await self.states.transact(
            state.environment,
            state.model,
            lambda state: execution.assess_by_probe(state, rollback.rollback_id, answers=answers, now=now),
        )
