"""Rehearses rollbacks in staging, with the real gateway, monitor and controller, before a version takes traffic."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from contracts.drills import Drill
from contracts.envelope import Event, derived_id
from contracts.facts import (
    DeploymentChanged,
    DrillFault,
    RehearsalCertificate,
    RehearsalCompleted,
    RehearsalRequested,
    VariantStaged,
)
from contracts.manifests import RehearsalRecord
from contracts.policy import Trigger
from contracts.routes import ServedTarget
from contracts.trigger_metrics import SLO_METRICS
from contracts.vocabulary import Digest
from decisions.releases.calendar import later
from decisions.rollback.drills import describe_fault
from decisions.rollback.rule import replicas_needed
from services.rollback_controller.domain import rehearsal_plan
from services.rollback_controller.domain.record import Rollback, RollbackState
from services.rollback_controller.domain.rehearsal_plan import Load
from services.rollback_controller.ports import Alerts, Drills, Flow, Proofs, Publisher, Routes, Traffic
from services.rollback_controller.states import RollbackStates
from shared.errors import Transient
from shared.messaging.bus import Emit
from shared.runtime.clock import Clock
from shared.storage.compare_and_set import ATTEMPTS, kept_changing
from shared.storage.kv import Conflict

_POLL_S = 0.1
_AGAIN_S = 5.0
"""Seconds until a failed switch is tried again."""
_NO_FAULT = DrillFault()
_SWITCH = "the switch"
"""Rehearsed instead of a trigger if detection was rehearsed before; no trigger can have this name."""
ACTOR = "rehearsal"


@dataclass(frozen=True)
class Pace:
    """Limits of a rehearsal.

    Attributes:
        healthy_requests: Requests that the candidate must answer before a fault is injected; for a trigger on
            latency, the fallback first.
        healthy_s: Seconds for these requests.
        detect_s: Seconds for the alert and the switch.
        verify_s: Seconds for the verification of the fallback after the switch.
        repeat_after_s: Pause before a trigger that fired without its fault is rehearsed again.
        load: The traffic of the rehearsal.
    """

    healthy_requests: int = 5
    healthy_s: float = 60.0
    detect_s: float = 120.0
    verify_s: float = 60.0
    repeat_after_s: float = 30.0
    load: Load = field(default_factory=Load)


@dataclass(frozen=True)
class _Stage:
    """One rehearsal: its event, the candidate to fail, the fallback to take over, the policy.

    Attributes:
        repeated: Triggers that fired without their fault, and were rehearsed again.
    """

    event: Event[VariantStaged]
    candidate: ServedTarget
    fallback: ServedTarget
    policy_digest: Digest | None
    expires_at: datetime
    repeated: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.candidate.target.model


@dataclass(frozen=True)
class Rehearsal:
    """Injects the fault of each automatic trigger, and observes the real monitor and controller."""

    bus: Publisher
    states: RollbackStates
    routes: Routes
    drills: Drills
    alerts: Alerts
    traffic: Traffic
    proofs: Proofs
    clock: Clock
    pace: Pace
    execute: Callable[[RollbackState], Awaitable[None]]
    """Executes a record's pending rollbacks (`Controller.execute_pending`)."""

    async def rehearse(self, event: Event[VariantStaged]) -> RehearsalCompleted | None:
        """Rehearse the rollback of staged targets and return the outcome; a redelivered event gets the same one.

        Raises:
            Transient: The log has no rehearsal request, or a dependency does not answer.
        """
        if event.data.request.purpose != "rehearsal":
            return None
        release_id, model = event.data.request.release_id, event.subject
        state = await self.states.read("production", model)
        if release_id in state.rehearsed:
            return await self._attested(event, state.rehearsed[release_id])
        requested = state.rehearsals.get(release_id) or await self.alerts.rehearsal_requested(model)
        if requested is None:
            raise Transient("bus_unavailable", f"The log has no request for the rehearsal of {release_id}.")
        if requested.release_id != release_id:  # the next release is rehearsed: this one has ended
            return None
        await self.states.transact("production", model, lambda state: rehearsal_plan.record_request(state, requested))
        runtime = event.data.candidate.runtime
        detections = rehearsal_plan.find_detections(state, requested, runtime, self.clock.now())
        completed = await self._run(event, requested, detections)
        state = await self.states.transact(
            "production", model, lambda state: rehearsal_plan.record_outcome(state, completed)
        )
        return await self._attested(event, state.rehearsed[release_id])

    async def _attested(self, event: Event[VariantStaged], completed: RehearsalCompleted) -> RehearsalCompleted:
        """Attest an outcome and return it; without the attestation, no version takes traffic."""
        candidate = event.data.candidate
        record = RehearsalRecord(
            target=candidate.target, manifest_digest=candidate.manifest.digest, completed=completed
        )
        await self.proofs.attest_rehearsal(record)
        return completed

    async def _run(
        self,
        event: Event[VariantStaged],
        requested: RehearsalRequested,
        detections: Sequence[RehearsalCertificate],
    ) -> RehearsalCompleted:
        stage = _Stage(
            event,
            event.data.candidate,
            event.data.baseline,
            requested.policy_digest,
            later(self.clock.now(), requested.valid_s),
        )
        certificates: list[RehearsalCertificate] = []
        reason = self._assess_triggers(requested.triggers)
        try:
            if detections and not reason:
                switched = await self._rehearse_switch(stage, detections)
                reason, certificates = (switched, []) if isinstance(switched, str) else ("", [*switched])
            for trigger in requested.triggers if not (reason or detections) else ():
                outcome = await self._rehearse_trigger(stage, trigger)
                if isinstance(outcome, str):
                    reason = outcome
                    break
                certificates.append(outcome)
                structlog.get_logger().info(
                    "rehearsed",
                    trigger=trigger.name,
                    detect_s=outcome.detect_s,
                    switch_s=outcome.switch_s,
                    verify_s=outcome.verify_s,
                )
        finally:
            await self._clear(stage)
        return RehearsalCompleted(
            release_id=requested.release_id,
            variant=requested.candidate.target.variant,
            verdict="fail" if reason else "pass",
            reason=reason or rehearsal_plan.summarise(certificates, stage.repeated),
            certificates=tuple(certificates),
        )

    def _assess_triggers(self, triggers: Sequence[Trigger]) -> str:
        """Return why a trigger cannot be rehearsed; empty if all can. Checked before any fault is injected."""
        load, detect_s = self.pace.load, self.pace.detect_s
        faults = ((trigger, rehearsal_plan.plan_fault(trigger)) for trigger in triggers)
        refusals = (rehearsal_plan.assess_fault(trigger, fault, load, detect_s) for trigger, fault in faults)
        return next((refusal for refusal in refusals if refusal), "")

    async def _rehearse_trigger(self, stage: _Stage, trigger: Trigger) -> RehearsalCertificate | str:
        """Return the certificate of one trigger, or the reason for none.

        A trigger that fires without its fault is rehearsed once more, because a stalled host can cause it; if it fires
        again, its threshold is too tight. Staging is cleared in between, so that the monitor resolves its alert.
        """
        outcome = await self._attempt(stage, trigger)
        if outcome is None:
            structlog.get_logger().warning("rehearsal_repeated", trigger=trigger.name, after_s=self.pace.repeat_after_s)
            stage.repeated.append(trigger.name)
            await self._clear(stage)
            await asyncio.sleep(self.pace.repeat_after_s)
            outcome = await self._attempt(stage, trigger)
        return outcome or f"{trigger.name}: it fired twice on healthy traffic in staging; its threshold is too tight."

    async def _attempt(self, stage: _Stage, trigger: Trigger) -> RehearsalCertificate | str | None:
        """Return the certificate of one trigger, or the reason for none; None if it fired without its fault."""
        fault = rehearsal_plan.plan_fault(trigger) or _NO_FAULT  # `_assess_triggers` refused triggers without
        await self._clear_route(stage, trigger.name)
        before: Sequence[float] = ()
        if trigger.metric in SLO_METRICS:
            await self._put_route(stage, stage.fallback, None, f"{stage.event.id}/{trigger.name}/before")
            async with self.traffic.flow(stage.model) as flow:
                failure = await self._await_healthy(stage.fallback, trigger.name, flow)
                before = tuple(flow.seconds)
            if failure:
                return failure
        verifying = rehearsal_plan.allow_as_before(trigger, before, self.pace.load)
        await self._set_stage(stage, trigger.name, verifying)
        async with self.traffic.flow(stage.model) as flow:
            failure = await self._await_healthy(stage.candidate, trigger.name, flow)
            if failure:
                return failure
            if await self._find_rollback(stage, trigger.name) is not None:
                return None
            last_raised = await self.alerts.last_raised("staging", stage.model)
            injected_at = self.clock.now()
            await self._put_drill(stage, trigger.name, fault)
            rollback = await self._await_rollback(stage, trigger.name)
        if rollback is None:
            return await self._why_none(stage, trigger, fault)
        # Alert and fault have different clocks; the order in the log is certain.
        if not await self.alerts.raised_since("staging", stage.model, rollback.alert_id, last_raised):
            return None
        return rehearsal_plan.assess_rehearsal(
            trigger,
            fault,
            rollback,
            injected_at,
            candidate=stage.candidate.manifest.digest,
            fallback=stage.fallback.manifest.digest,
            policy=stage.policy_digest,
            expires_at=stage.expires_at,
            runtime=stage.candidate.runtime,
        )

    async def _rehearse_switch(
        self, stage: _Stage, detections: Sequence[RehearsalCertificate]
    ) -> tuple[RehearsalCertificate, ...] | str:
        """Rehearse only the switch; return the certificates with earlier detections, or the reason for none."""
        await self._clear_route(stage, _SWITCH)
        await self._set_stage(stage, _SWITCH)
        async with self.traffic.flow(stage.model) as flow:
            failure = await self._await_healthy(stage.candidate, _SWITCH, flow)
            if failure:
                return failure
            until = self.clock.monotonic() + self.pace.detect_s
            rollback = await self._switch(stage)
            while rollback is not None and rollback.phase == "failed" and self.clock.monotonic() < until:
                await asyncio.sleep(_AGAIN_S)
                rollback = await self._switch(stage)
            if rollback is not None and rollback.phase != "failed":
                rollback = await self._await_rollback(stage, "")
        if rollback is None:
            raise Transient("bus_unavailable", f"The switch of {stage.model} was cleared while it was rehearsed.")
        return rehearsal_plan.assess_switch(
            detections,
            rollback,
            candidate=stage.candidate.manifest.digest,
            fallback=stage.fallback.manifest.digest,
            expires_at=stage.expires_at,
        )

    async def _switch(self, stage: _Stage) -> Rollback | None:
        """Start and execute the switch like an alert's rollback; return the rollback in its current phase."""
        now, needed = self.clock.now(), replicas_needed(stage.candidate)
        begin = functools.partial(rehearsal_plan.start_switch, cause=stage.event, replicas=needed, now=now)
        await self.execute(await self.states.transact("staging", stage.model, begin))
        return await self._find_rollback(stage, "")

    async def _why_none(self, stage: _Stage, trigger: Trigger, fault: DrillFault) -> str:
        """Return why a fault caused no rollback in time.

        Raises:
            Transient: The log was lost since, and counts from 1 again.
        """
        state = await self.states.read("staging", stage.model)
        if await self.alerts.last_route_change("staging", stage.model) <= state.rehearsing_since:
            raise Transient("bus_unavailable", f"The log was lost while {trigger.name} was rehearsed.")
        if state.held:
            return f"{trigger.name}: the alert came, and traffic stayed ({next(iter(state.held.values()))})."
        return (
            f"{trigger.name}: no alert within {self.pace.detect_s:g} s of the fault {describe_fault(fault)}. "
            f"{rehearsal_plan.advise_time(trigger, fault, self.pace.load, self.pace.detect_s)}"
        )

    async def _clear_route(self, stage: _Stage, trigger: str) -> None:
        """End the drill and clear the route of an interrupted attempt."""
        await self._put_drill(stage, trigger, _NO_FAULT)
        entry = await self.routes.get("staging", stage.model)
        if entry is not None and entry.value.active is not None:
            await self._put_route(stage, None, None, f"{stage.event.id}/{trigger}/begin")

    async def _set_stage(self, stage: _Stage, trigger: str, verifying: Trigger | None = None) -> None:
        """Route staging to the candidate, with the fallback as previous and without a fault.

        Alerts from before the last route change belong to interrupted attempts, and are ignored.
        """
        since = await self.alerts.last_route_change("staging", stage.model)
        now, version = self.clock.now(), stage.candidate.target.version

        def start(state: RollbackState) -> RollbackState:
            if verifying is not None:
                state = rehearsal_plan.replace_trigger(state, version, verifying)
            return rehearsal_plan.start_rehearsal(state, trigger, now, since)

        await self.states.transact("staging", stage.model, start)
        await self._put_route(stage, stage.candidate, stage.fallback, f"{stage.event.id}/{trigger}")

    async def _await_healthy(self, served: ServedTarget, trigger: str, flow: Flow) -> str:
        """Wait for `healthy_requests` successful answers; return the failure at the deadline, else empty."""
        deadline = self.clock.monotonic() + self.pace.healthy_s
        while len(flow.seconds) < self.pace.healthy_requests:
            if self.clock.monotonic() > deadline:
                failure = flow.last_failure or "nothing came back"
                return f"{trigger}: {served.target} does not answer in staging without a fault: {failure}"
            await asyncio.sleep(_POLL_S)
        return ""

    async def _await_rollback(self, stage: _Stage, trigger: str) -> Rollback | None:
        """Return the last rollback caused by the fault, in the phase reached in time; None without one.

        A failed rollback is retried at the next update of its alert, as in production.
        """
        started = self.clock.monotonic()
        rollback: Rollback | None = None
        while self.clock.monotonic() < started + self.pace.detect_s:
            rollback = await self._find_rollback(stage, trigger)
            if rollback is not None and rollback.phase in ("switched", "completed"):
                break
            await asyncio.sleep(_POLL_S)
        deadline = self.clock.monotonic() + self.pace.verify_s
        while rollback is not None and rollback.phase == "switched" and self.clock.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
            rollback = await self._find_rollback(stage, trigger)
        return rollback

    async def _find_rollback(self, stage: _Stage, trigger: str) -> Rollback | None:
        return rehearsal_plan.find_rollback(await self.states.read("staging", stage.model), trigger)

    async def _put_drill(self, stage: _Stage, trigger: str, fault: DrillFault) -> None:
        """Inject a fault into staging; `_NO_FAULT` ends the current one."""
        now = self.clock.now()
        lasts = timedelta(seconds=self.pace.detect_s + self.pace.verify_s)
        await self.drills.put(
            Drill(
                drill_id=f"{stage.event.id}/{trigger}",
                target=stage.candidate.target,
                environment="staging",
                fault=fault,
                share_ratio=0.0 if fault.does_nothing else 1.0,
                starts_at=now,
                expires_at=now + lasts,
                actor=ACTOR,
                reason=f"rehearsal of {trigger} for {stage.event.correlationid}",
            )
        )

    async def _put_route(
        self, stage: _Stage, active: ServedTarget | None, previous: ServedTarget | None, cause_id: str
    ) -> None:
        """Write the staging route and publish it."""
        for _ in range(ATTEMPTS):
            entry = await self.routes.get("staging", stage.model)
            route = rehearsal_plan.plan_staging_route(
                entry.value if entry else None, stage.model, active, previous, cause_id=cause_id
            )
            try:
                await self.routes.put("staging", route, entry.revision if entry else None)
            except Conflict:
                continue
            break
        else:
            raise kept_changing(f"staging-routes/{stage.model}")
        fact = DeploymentChanged(route=route, cause="promote" if active else "restore", at=self.clock.now())
        event_id = derived_id(cause_id, DeploymentChanged.TYPE, str(route.epoch))
        await self.bus.publish(
            Emit(fact, model=stage.model, environment="staging", id=event_id, correlation_id=stage.event.correlationid)
        )

    async def _clear(self, stage: _Stage) -> None:
        """Clear staging: no fault, no serving target, no rehearsal in progress."""
        await self._put_drill(stage, "none", _NO_FAULT)
        await self._put_route(stage, None, None, f"{stage.event.id}/end")
        now = self.clock.now()
        await self.states.transact("staging", stage.model, lambda state: rehearsal_plan.start_rehearsal(state, "", now))
