"""The registry's handlers: read, ask the domain, write, publish. Failure belongs to `shared.messaging.bus`."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

import structlog

from contracts.envelope import Event
from contracts.facts import (
    ApprovalGranted,
    CanaryAssessed,
    CheckpointMerged,
    CheckpointReady,
    CheckpointRejected,
    DeploymentChanged,
    Fact,
    OrderRefused,
    PromotionRefused,
    RehearsalCompleted,
    ReleaseCancelled,
    VariantBenchmarked,
    VariantFailed,
    VariantQuantised,
    VariantStaged,
    WorkAbandoned,
)
from contracts.policy import ReleasePolicy
from services.registry.announcing import Admissions
from services.registry.domain import admission, versions
from services.registry.domain.admission import Places, Refusal
from services.registry.domain.announcements import Announcement
from services.registry.domain.record import Input
from services.registry.ledger import Ledger, Outside, release_record
from shared.errors import Permanent, Transient, translate
from shared.messaging.bus import Bus, Failed
from shared.messaging.orders import check_age, check_epoch, order_refused
from shared.runtime.failpoints import failpoint

R = TypeVar("R")
SERVICE = "registry"
FROM_WORKERS: tuple[type[Fact], ...] = (
    CheckpointMerged,
    CheckpointRejected,
    VariantQuantised,
    VariantFailed,
    VariantStaged,
    VariantBenchmarked,
    RehearsalCompleted,
    CanaryAssessed,
    PromotionRefused,
    WorkAbandoned,
)
_ATTEMPTS = 50


class Registry:
    """What the registry does with each kind of fact."""

    def __init__(self, outside: Outside, places: Places, *, try_s: float = 30.0, wait_s: float = 2.0) -> None:
        self._out = outside
        self._places = places
        self.ledger = Ledger(outside)
        self.admissions = Admissions(outside, self.admit, try_s=try_s, wait_s=wait_s)

    async def admit(self, event: Event[CheckpointReady]) -> None:
        """Open the release of a checkpoint, or find the one that it already is."""
        ready, model = event.data, event.subject
        for _ in range(_ATTEMPTS):
            await self.ledger.open(model)
            entry = await self.ledger.model(model)
            release_id = versions.find_redelivered(entry.value, ready, event.id)
            if release_id is not None:
                break
            policy = await self._policy(ready)
            key = admission.release_key(ready, policy)
            release_id = admission.release_id(key, ready.attempt)
            if release_id in entry.value.reservations:
                structlog.get_logger().info("this checkpoint is known already", model=model, release=release_id)
                break
            await self._check(ready)
            version = entry.value.next_version
            opened = admission.plan_opening(ready, policy, key=key, version=version, source_event_id=event.id)
            reserved = versions.reserve(entry.value, opened)
            _refuse(admission.assess_record(opened, len(reserved.model_dump_json())))
            if await self.ledger.reserve(entry, reserved):
                failpoint("registry.after_reserve")
                await self.ledger.open(model)
                break
        else:
            raise Transient("bus_unavailable", f"The record of {model} kept changing.")
        await self.ledger.apply(model, release_id, None, cause_id=event.id)

    async def _policy(self, ready: CheckpointReady) -> ReleasePolicy:
        stored = await self._out.policies.get(ready.model)
        policy = admission.decide_policy(ready.policy, stored.value if stored else None)
        if isinstance(policy, Refusal):
            raise _permanent(policy)
        return policy

    async def _check(self, ready: CheckpointReady) -> None:
        """Raise Permanent, with its code, unless every artifact lies where it may and is what was announced."""
        _refuse(admission.assess_places(ready, self._places))
        key = admission.base_key(ready.base)
        base = await self._out.artifacts.find_base(key) if key else None
        _refuse(admission.assess_base(ready.base, base, self._places.bucket))
        for ref in (ready.weights.ref, ready.calibration, ready.evaluation):
            if ref is not None:
                await self._out.artifacts.verify(ref)

    async def hear(self, event: Event[Any], release_id: str) -> None:
        """Bring a fact to its release."""
        if not admission.is_release_id(release_id):
            structlog.get_logger().info("not about a release", correlation=release_id)
            return
        await self.ledger.apply(event.subject, release_id, Input(event.id, event.time, event.data))

    async def ordered(self, event: Event[ApprovalGranted] | Event[ReleaseCancelled], stored: datetime) -> None:
        """Bring an order of a person to its release; raise Permanent when it is void and was not carried out."""
        known = admission.is_release_id(event.data.release_id)
        key = release_record(event.subject, event.data.release_id)
        release = await self._out.releases.get(key) if known else None
        if release is None or event.id not in release.value.applied:
            check_age(event, stored, self._out.clock.now(), until=event.data.expires_at)
            if isinstance(event.data, ApprovalGranted):
                route = await self._out.routes.get(event.subject)
                check_epoch(event, route.value.epoch if route else None)
        await self.hear(event, event.data.release_id)

    async def deployed(self, event: Event[DeploymentChanged]) -> None:
        """Append the deployment to the version's records, and tell the release that is under way."""
        record = versions.plan_deployment_record(event.data, event.causationid or event.id)
        if record is not None:
            await self._out.artifacts.put_deployment(record)
        occupant = (await self.ledger.model(event.subject)).value.occupant
        for release_id in dict.fromkeys((event.correlationid, occupant)):
            if release_id is not None:
                await self.hear(event, release_id)

    async def sweep(self) -> None:
        """Do everything that is due; a release or model that fails does not keep the others waiting."""
        await _guarded(self.admissions.start_all(), None)
        for model in await _guarded(self.ledger.models(), ()):
            for release_id in await _guarded(self.ledger.open_releases(model), (), model=model):
                await _guarded(self.ledger.sweep(model, release_id), None, model=model, release=release_id)

    async def keep_sweeping(self, every_s: float) -> None:
        """Sweep for ever; the first time at once, which drains what an earlier process left behind."""
        try:
            while True:
                await self.sweep()
                await asyncio.sleep(every_s)
        finally:
            await self.admissions.stop()


async def _guarded(work: Awaitable[R], otherwise: R, **about: str) -> R:
    """Do one part of a sweep; a failure is logged, because the next sweep tries again and the others must go on."""
    try:
        return await work
    except Exception as error:  # whatever it is: one unreadable record must not stop every other release
        known = translate(error)
        log = structlog.get_logger().bind(**about)
        if known is not None:
            log.warning("could not sweep", code=known.code, reason=known.reason)
        else:
            log.exception("could not sweep")
        return otherwise


def build(bus: Bus, outside: Outside, places: Places, *, try_s: float = 30.0, wait_s: float = 2.0) -> Registry:
    """Subscribe the registry's handlers and return the registry."""
    registry = Registry(outside, places, try_s=try_s, wait_s=wait_s)

    @bus.on(CheckpointReady, failure=rejection)
    async def admit(event: Event[CheckpointReady]) -> None:
        received = bus.received
        await registry.admissions.announced(
            event,
            Announcement(
                sequence=received.sequence,
                event_id=event.id,
                correlation_id=event.correlationid,
                environment=event.environment,
                stored_at=received.stored_at,
            ),
        )

    @bus.on(ApprovalGranted, failure=refused)
    async def approve(event: Event[ApprovalGranted]) -> None:
        await registry.ordered(event, bus.received.stored_at)

    @bus.on(ReleaseCancelled, failure=refused)
    async def cancel(event: Event[ReleaseCancelled]) -> None:
        await registry.ordered(event, bus.received.stored_at)

    @bus.on(DeploymentChanged)
    async def deployed(event: Event[DeploymentChanged]) -> None:
        await registry.deployed(event)

    for fact in FROM_WORKERS:
        bus.on(fact)(_worker_handler(bus, registry))
    return registry


def _worker_handler(bus: Bus, registry: Registry) -> Callable[[Event[Any]], Coroutine[Any, Any, None]]:
    async def hear(event: Event[Any]) -> None:
        if event.source != f"/slipway/{bus.service}" or not isinstance(event.data, CheckpointRejected):
            await registry.hear(event, event.correlationid)  # its own rejections are about no release

    return hear


def rejection(failed: Failed) -> CheckpointRejected:
    """Return the fact that a checkpoint which may not come in becomes."""
    error = failed.error
    return CheckpointRejected(code=error.code, reason=error.sentence(), details=error.details)


def refused(failed: Failed) -> OrderRefused | None:
    """Return the fact that an order which is not carried out becomes."""
    return order_refused(failed)


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise _permanent(refusal)


def _permanent(refusal: Refusal) -> Permanent:
    return Permanent(refusal.code, refusal.reason, **refusal.details)
