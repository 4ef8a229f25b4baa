"""Walks the way back in staging, on the real parts, before a version may go live."""

import asyncio
from dataclasses import dataclass
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
from contracts.policy import Trigger
from contracts.routes import ServedTarget
from contracts.vocabulary import Digest
from services.rollback_controller.domain import rehearsal_plan as rehearsing
from services.rollback_controller.domain.record import Book, Rollback
from services.rollback_controller.ports import Drills, Flow, Routes, Traffic
from shared.errors import Transient
from shared.messaging.bus import Bus, Emit
from shared.messaging.ledger import Ledger
from shared.runtime.clock import Clock
from shared.storage.kv import Conflict

_LOOK_S = 0.1
_NO_FAULT = DrillFault()
ACTOR = "rehearsal"


@dataclass(frozen=True)
class Pace:
    """How patient a rehearsal is.

    Attributes:
        healthy_requests: how many must be answered well, without any alert, before a fault is injected.
        healthy_s: how long that may take.
        detect_s: how long the alert may take, and the switch.
        verify_s: how long after that the fallback may take to be verified.
    """

    healthy_requests: int = 5
    healthy_s: float = 60.0
    detect_s: float = 120.0
    verify_s: float = 60.0


@dataclass(frozen=True)
class _Stage:
    """What is rehearsed: who falls, who catches, under which policy, for whom."""

    event: Event[VariantStaged]
    candidate: ServedTarget
    fallback: ServedTarget
    policy_digest: Digest | None
    expires_at: datetime

    @property
    def model(self) -> str:
        return self.candidate.target.model


@dataclass(frozen=True)
class Rehearsal:
    """Injects the declared fault of each automatic trigger, and watches the real monitor and controller."""

    bus: Bus
    ledger: Ledger[Book]
    routes: Routes
    drills: Drills
    traffic: Traffic
    clock: Clock
    pace: Pace

    async def rehearse(self, event: Event[VariantStaged]) -> RehearsalCompleted | None:
        """Rehearse what was staged for it; asked again, give the same answer.

        Raises:
            Transient: nobody has told yet what to rehearse, or a part does not answer.
        """
        if event.data.request.purpose != "rehearsal":
            return None
        release_id, model = event.data.request.release_id, event.subject
        book = await self.ledger.read("production", model) or Book(model=model, environment="production")
        if release_id in book.rehearsed:
            return book.rehearsed[release_id]
        requested = book.rehearsals.get(release_id)
        if requested is None:
            raise Transient("bus_unavailable", f"What to rehearse for {release_id} was not heard yet.")
        completed = await self._walk(event, requested)
        after = await self.ledger.apply("production", model, lambda book: rehearsing.conclude(book, completed))
        return after.rehearsed[release_id]

    async def _walk(self, event: Event[VariantStaged], requested: RehearsalRequested) -> RehearsalCompleted:
        now = self.clock.now()
        stage = _Stage(
            event,
            event.data.candidate,
            event.data.baseline,
            requested.policy_digest,
            now + timedelta(seconds=requested.valid_s),
        )
        certificates: list[RehearsalCertificate] = []
        reason = ""
        try:
            for trigger in requested.triggers:
                found = await self._rehearse_trigger(stage, trigger)
                if isinstance(found, str):
                    reason = found
                    break
                certificates.append(found)
                structlog.get_logger().info(
                    "rehearsed",
                    trigger=trigger.name,
                    detect_s=found.detect_s,
                    switch_s=found.switch_s,
                    verify_s=found.verify_s,
                )
        finally:
            await self._clear(stage)
        names = ", ".join(one.trigger for one in certificates)
        return RehearsalCompleted(
            release_id=requested.release_id,
            variant=requested.candidate.target.variant,
            verdict="fail" if reason else "pass",
            rehearsed_at=self.clock.now(),
            reason=reason or f"Detected, switched and verified in staging: {names}.",
            certificates=tuple(certificates),
        )

    async def _rehearse_trigger(self, stage: _Stage, trigger: Trigger) -> RehearsalCertificate | str:
        fault = rehearsing.declared_fault(trigger)
        if fault is None:
            return f"{trigger.name}: {trigger.metric} cannot be rehearsed by a fault; declare it manual."
        await self.ledger.apply("staging", stage.model, lambda book: rehearsing.begin(book, trigger.name))
        await self._drill(stage, trigger.name, _NO_FAULT)
        await self._route(stage, stage.candidate, stage.fallback, f"{stage.event.id}/{trigger.name}")
        async with self.traffic.flow(stage.model) as flow:
            unwell = await self._await_healthy(stage, trigger, flow)
            if unwell:
                return unwell
            injected_at = self.clock.now()
            await self._drill(stage, trigger.name, fault)
            one = await self._await_way_back(stage, trigger)
        if one is None:
            what = rehearsing.describe(fault)
            return f"{trigger.name}: no alert within {self.pace.detect_s:g} s of the fault {what}."
        return rehearsing.certify(
            trigger,
            fault,
            one,
            injected_at,
            candidate=stage.candidate.manifest.digest,
            fallback=stage.fallback.manifest.digest,
            policy=stage.policy_digest,
            expires_at=stage.expires_at,
        )

    async def _await_healthy(self, stage: _Stage, trigger: Trigger, flow: Flow) -> str:
        """Wait until the candidate answers well; say what is wrong if it does not."""
        deadline = self.clock.monotonic() + self.pace.healthy_s
        while flow.answered < self.pace.healthy_requests:
            if self.clock.monotonic() > deadline:
                trouble = flow.trouble or "nothing came back"
                return f"{trigger.name}: {stage.candidate.target} does not answer in staging without a fault: {trouble}"
            await asyncio.sleep(_LOOK_S)
        if await self._seen(stage, trigger) is not None:
            return f"{trigger.name}: it fires on healthy traffic in staging; its threshold is too tight."
        return ""

    async def _await_way_back(self, stage: _Stage, trigger: Trigger) -> Rollback | None:
        started = self.clock.monotonic()
        one: Rollback | None = None
        while self.clock.monotonic() < started + self.pace.detect_s:
            one = await self._seen(stage, trigger)
            if one is not None and one.state != "decided":
                break
            await asyncio.sleep(_LOOK_S)
        started = self.clock.monotonic()
        while one is not None and one.state == "switched" and self.clock.monotonic() < started + self.pace.verify_s:
            await asyncio.sleep(_LOOK_S)
            one = await self._seen(stage, trigger)
        return one

    async def _seen(self, stage: _Stage, trigger: Trigger) -> Rollback | None:
        book = await self.ledger.read("staging", stage.model)
        return rehearsing.alarmed(book, trigger) if book is not None else None

    async def _drill(self, stage: _Stage, trigger: str, fault: DrillFault) -> None:
        """Inject a fault; none at all ends the one before."""
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

    async def _route(
        self, stage: _Stage, active: ServedTarget | None, previous: ServedTarget | None, cause_id: str
    ) -> None:
        """Set the route of staging, and say so."""
        while True:
            entry = await self.routes.get("staging", stage.model)
            route = rehearsing.staging_route(
                entry.value if entry else None, stage.model, active, previous, cause_id=cause_id
            )
            try:
                await self.routes.put("staging", route, entry.revision if entry else None)
            except Conflict:
                continue
            break
        fact = DeploymentChanged(route=route, cause="promote" if active else "restore", at=self.clock.now())
        told = derived_id(cause_id, DeploymentChanged.TYPE, str(route.epoch))
        await self.bus.publish(
            Emit(fact, model=stage.model, environment="staging", id=told, correlation_id=stage.event.correlationid)
        )

    async def _clear(self, stage: _Stage) -> None:
        """Leave staging as if nothing had been: no fault, nobody serving."""
        await self._drill(stage, "none", _NO_FAULT)
        await self._route(stage, None, None, f"{stage.event.id}/end")
        await self.ledger.apply("staging", stage.model, lambda book: rehearsing.begin(book, ""))
