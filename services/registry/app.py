"""The registry's handlers: read records, ask the domain, write, publish. `shared.messaging.bus` handles failures."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import structlog

from contracts.envelope import Event
from contracts.facts import (
    ApprovalDenied,
    ApprovalGranted,
    CanaryAdvanced,
    CanaryAssessed,
    CheckpointMerged,
    CheckpointReady,
    CheckpointRejected,
    DeploymentChanged,
    ErasureOrdered,
    EvalResult,
    Fact,
    OrderAccepted,
    PromotionRefused,
    RecordOrdered,
    RehearsalCompleted,
    ReleaseCancelled,
    ReleaseHeld,
    ReleaseOpened,
    ShadowAssessed,
    VariantBenchmarked,
    VariantEvaluated,
    VariantFailed,
    VariantQuantised,
    VariantStaged,
    WorkAbandoned,
)
from contracts.policy import ReleasePolicy
from services.registry.admissions import Admissions, NotItsTurn, rejection
from services.registry.domain import admission, approvals, gates, orders, team_quotas, versions
from services.registry.domain.admission import AllowedLocations, Refusal
from services.registry.domain.announcements import Announcement
from services.registry.domain.record import Input, Release
from services.registry.domain.versions import ModelRecord
from services.registry.ports import Ports
from services.registry.record_orders import RecordOrders
from services.registry.release_records import ReleaseRecords
from services.registry.settings import RegistrySettings
from services.registry.team_use import TeamUse
from shared.errors import Permanent, Transient
from shared.messaging.bus import Bus
from shared.messaging.orders import check_age, check_epoch, check_sender, order_refused
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.runtime.sweeper import Sweeper
from shared.storage.compare_and_set import ATTEMPTS

SERVICE = "registry"
_MODELS_EVERY = 10
"""Sweeps of releases per sweep of all models for lost records."""
_LIST_LIMIT_S = 5.0
"""Seconds for reading one model's record; after that the sweep continues without the model."""
ORDERS_OF_RELEASES: tuple[type[Fact], ...] = (
    ApprovalGranted,
    ReleaseCancelled,
    ReleaseHeld,
    CanaryAdvanced,
    ApprovalDenied,
)
FROM_WORKERS: tuple[type[Fact], ...] = (
    CheckpointMerged,
    CheckpointRejected,
    VariantQuantised,
    VariantFailed,
    VariantStaged,
    VariantBenchmarked,
    VariantEvaluated,
    RehearsalCompleted,
    CanaryAssessed,
    ShadowAssessed,
    PromotionRefused,
    WorkAbandoned,
)


class Registry:
    """Handles each fact and order that the registry consumes."""

    def __init__(self, ports: Ports, *, locations: AllowedLocations, settings: RegistrySettings, clock: Clock) -> None:
        self._ports = ports
        self._locations = locations
        self._clock = clock
        self._team_use = TeamUse(ports, clock, settings.work_per_team)
        self.records = ReleaseRecords(ports, clock, self._team_use.leaving)
        self.admissions = Admissions(
            ports,
            clock,
            self.admit,
            self._team_use,
            try_s=settings.admission_try_s,
            wait_s=settings.admission_wait_s,
            record_wait_s=settings.record_wait_s,
        )
        every_s = settings.sweep_s
        self.sweepers: tuple[Sweeper[str] | Sweeper[tuple[str, str]], ...] = (
            Sweeper("admissions", self.admissions.models, self.admissions.sweep, every_s=every_s),
            Sweeper("releases", self._list_open_releases, self._sweep_release, every_s=every_s),
            Sweeper("models", self._ports.artifacts.models, self.records.sweep_model, every_s=_MODELS_EVERY * every_s),
        )

    async def admit(self, event: Event[CheckpointReady]) -> None:
        """Open the release of a checkpoint, or resume the existing release of the same checkpoint.

        Raises:
            NotItsTurn: Other releases of the team come first; no artifact was verified.
        """
        ready, model = event.data, event.subject
        for _ in range(ATTEMPTS):
            record = await self.records.finish_opening(model)
            release_id = versions.find_redelivered(record, ready, event.id)
            if release_id is not None:
                break
            stored = await self._ports.policies.get(ready.model)
            policy = self._policy(ready, stored.value if stored else None)
            key = admission.release_key(ready, policy)
            release_id = admission.release_id(key, ready.attempt)
            if release_id in record.reservations or await self.records.read(model, release_id) is not None:
                structlog.get_logger().info("checkpoint is already known", model=model, release=release_id)
                break
            check_sender(event, self._ports.teams())
            _refuse(admission.assess_sources(ready, ready.policy, stored.value if stored else None))
            _refuse(admission.assess_evaluations(ready, policy))
            if policy.evaluations.stated:
                _refuse(admission.assess_stated(ready, policy, await self._active_figures(model)))
            attachment = await self._ports.attachments.get(model)
            _refuse(admission.assess_attached(ready, policy, attachment.value if attachment is not None else None))
            _refuse(admission.assess_callers(ready.model, policy, self._ports.teams()))
            if not await self._team_use.has_turn(model):
                raise NotItsTurn
            await self._check(ready)
            earlier = await self.records.publishers(record, ready) if policy.approvals.not_by_publisher else ()
            opened = admission.plan_opening(event, policy, key=key, version=record.next_version, earlier=earlier)
            if await self._reserve(record, opened):
                failpoint("registry.after_reserve")
                await self.records.finish_opening(model)
                break
        else:
            raise Transient(
                "bus_unavailable", f"Other admissions of {model} were first at each of {ATTEMPTS} attempts."
            )
        await self.records.apply(model, release_id, None, cause_id=event.id)

    async def _reserve(self, record: ModelRecord, opened: ReleaseOpened) -> bool:
        """Reserve a version for a release; return False if another admission was faster.

        Raises:
            Permanent: The release exceeds a quota or the record size.
            NotItsTurn: Other releases of the team come first.
        """
        _refuse(admission.assess_record(opened, len(versions.reserve(record, opened).model_dump_json())))
        async with self._team_use.opening(opened) as load:
            _refuse(team_quotas.assess_releases(load.team, load.under_way))
            _refuse(team_quotas.assess_bytes(load.team, load.stored, load.reserved, load.needed))
            if not load.begins:
                raise NotItsTurn
            return await self.records.reserve(opened.model, record, opened)

    async def _active_figures(self, model: str) -> tuple[EvalResult, ...] | None:
        """Return the publisher's figures of the active version; empty without an active version, None if unknown."""
        route = await self._ports.routes.get(model)
        active = route.value.active if route is not None else None
        if active is None or active.target.version == 0:
            return ()
        return await self._ports.artifacts.find_figures(model, active.target.version)

    def _policy(self, ready: CheckpointReady, stored: ReleasePolicy | None) -> ReleasePolicy:
        policy = admission.decide_policy(ready.policy, stored)
        if isinstance(policy, Refusal):
            raise _permanent(policy)
        return policy

    async def _check(self, ready: CheckpointReady) -> None:
        """Raise Permanent unless every artifact is in an allowed location and matches the announcement."""
        _refuse(admission.assess_serving(ready))
        _refuse(admission.assess_locations(ready, self._locations))
        key = admission.base_key(ready.base)
        base = await self._ports.artifacts.find_base(key) if key else None
        _refuse(admission.assess_base(ready.base, base, self._locations.bucket))
        for ref in (ready.weights.ref, ready.calibration, ready.evaluation):
            if ref is not None:
                await self._ports.artifacts.verify(ref)

    async def handle(self, event: Event[Any], release_id: str) -> Release | None:
        """Apply a fact to its release and return the release; None if there is none.

        A worker's fact about an unknown release means that the release's record was lost: the release ends.
        """
        if not admission.is_release_id(release_id):
            structlog.get_logger().info("the event belongs to no release", correlation=release_id)
            return None
        received = Input(event.id, event.time, event.data, sender=event.sender)
        release = await self.records.apply(event.subject, release_id, received)
        if release is None and isinstance(event.data, FROM_WORKERS):
            await self.records.end_lost(event.subject, release_id, event.id)
        return release

    async def handle_order(self, event: Event[Any], stored: datetime) -> OrderAccepted:
        """Apply an order to its release; an approval is attested first.

        Raises:
            Permanent: The order is expired or does not apply, or its sender may not act on the model.
        """
        check_sender(event, self._ports.teams())
        known = admission.is_release_id(event.data.release_id)
        release = await self.records.read(event.subject, event.data.release_id) if known else None
        if release is not None and isinstance(event.data, ApprovalGranted):
            _refuse(approvals.assess_approval(release, event.sender))
        if release is None or event.id not in release.applied:
            check_age(event, stored, self._clock.now(), until=event.data.expires_at)
            if isinstance(event.data, ApprovalGranted | CanaryAdvanced):
                route = await self._ports.routes.get(event.subject)
                check_epoch(event, route.value.epoch if route else None)
            _refuse(orders.assess_order(release, event.data, event.sender))
        elif not release.has_recorded(event.id, event.data, event.sender):
            reason = f"The id {event.id} is that of another event of release {release.id}. Give each event its own id."
            raise Permanent("malformed_event", reason)
        if release is not None and release.finished is None and isinstance(event.data, ApprovalGranted):
            await self._attest_approval(release, event)
        # Pauses are ordered by the bus's time: publishers' clocks differ.
        at = stored if isinstance(event.data, ReleaseHeld) else event.time
        received = Input(event.id, at, event.data, sender=event.sender)
        applied = await self.records.apply(event.subject, event.data.release_id, received)
        if applied is None or event.id not in applied.applied:  # the release ended meanwhile
            _refuse(orders.assess_order(applied, event.data, event.sender))
        details = orders.describe_order(applied, event.id) if applied is not None else {}
        return OrderAccepted(order_id=event.id, order_type=event.type, details=details)

    async def _attest_approval(self, release: Release, event: Event[ApprovalGranted]) -> None:
        record = versions.plan_approval_record(release, event)
        if record is None and gates.all_quantised(release):
            return
        if record is None or release.manifest is None:
            reason = f"Version {release.version} of {release.model} is not registered yet; its approval waits for that."
            raise Transient("bus_unavailable", reason)
        await self._ports.artifacts.put_approval(record)

    async def erase(self, event: Event[ErasureOrdered], stored: datetime) -> OrderAccepted:
        """Erase a version's text; raise Permanent if the order expired or the version does not exist."""
        order = event.data
        check_age(event, stored, self._clock.now(), until=order.expires_at)
        erased = await self._ports.artifacts.erase_text(event.subject, order.version, order.kind)
        details = {"version": order.version, "kind": order.kind, "digests": list(erased)}
        return OrderAccepted(order_id=event.id, order_type=event.type, details=details)

    async def handle_deployment(self, event: Event[DeploymentChanged]) -> None:
        """Append a deployment to the version's records; apply it to its own release and to the release in progress.

        A suspended version that returns gets a new release.
        """
        record = versions.plan_deployment_record(event.data, event.causationid or event.id)
        if record is not None:
            await self._ports.artifacts.put_deployment(record)
        in_progress = (await self.records.model(event.subject)).in_progress
        for release_id in dict.fromkeys((event.correlationid, in_progress)):
            if release_id is not None:
                await self.handle(event, release_id)
        for entry in event.data.route.suspended:
            if entry.returned_by:
                await self.records.open_return(event.subject, entry, event.id)

    async def _list_open_releases(self) -> list[tuple[str, str]]:
        """Return model and ID of every open release; an unreadable model is listed once, with an empty ID."""
        models = await self.records.models()
        releases: list[tuple[str, str]] = []
        unread = set(models)

        async def list_models() -> list[str]:
            return models

        async def list_model(model: str) -> None:
            releases.extend((model, release_id) for release_id in await self.records.open_releases(model))
            unread.discard(model)

        await Sweeper("open releases", list_models, list_model, every_s=0.0, item_limit_s=_LIST_LIMIT_S).sweep()
        return [*releases, *((model, "") for model in sorted(unread))]

    async def _sweep_release(self, item: tuple[str, str]) -> None:
        """Process a release's due work; an empty ID stands for all open releases of the model."""
        model, release_id = item
        for swept in (release_id,) if release_id else await self.records.open_releases(model):
            await self.records.sweep(model, swept)


def build(bus: Bus, *, ports: Ports, locations: AllowedLocations, settings: RegistrySettings, clock: Clock) -> Registry:
    """Subscribe the registry's handlers to the bus and return the registry."""
    registry = Registry(ports, locations=locations, settings=settings, clock=clock)

    @bus.on(CheckpointReady, failure=lambda _event, error: rejection(error))
    async def admit(event: Event[CheckpointReady]) -> None:
        received = bus.received
        await registry.admissions.receive(
            event.subject,
            Announcement(
                sequence=received.sequence,
                event_id=event.id,
                correlation_id=event.correlationid,
                environment=event.environment,
                stored_at=received.stored_at,
            ),
        )

    @bus.on(ErasureOrdered, failure=order_refused)
    async def erase(event: Event[ErasureOrdered]) -> OrderAccepted:
        return await registry.erase(event, bus.received.stored_at)

    records = RecordOrders(ports.ordered, ports.teams, ports.routes, ports.models, clock)

    @bus.on(RecordOrdered, failure=order_refused)
    async def record_ordered(event: Event[RecordOrdered]) -> OrderAccepted:
        return await records.carry_out(event, bus.received.stored_at)

    @bus.on(DeploymentChanged)
    async def deployed(event: Event[DeploymentChanged]) -> None:
        await registry.handle_deployment(event)

    for order in ORDERS_OF_RELEASES:
        bus.on(order, failure=order_refused)(_order_handler(bus, registry))
    for fact in FROM_WORKERS:
        bus.on(fact)(_worker_handler(bus, registry))
    return registry


def _order_handler(bus: Bus, registry: Registry) -> Callable[[Event[Any]], Coroutine[Any, Any, OrderAccepted]]:
    async def handle(event: Event[Any]) -> OrderAccepted:
        return await registry.handle_order(event, bus.received.stored_at)

    return handle


def _worker_handler(bus: Bus, registry: Registry) -> Callable[[Event[Any]], Coroutine[Any, Any, None]]:
    async def handle(event: Event[Any]) -> None:
        if event.origin != bus.service or not isinstance(event.data, CheckpointRejected):
            await registry.handle(event, event.correlationid)  # the registry's own rejections precede any release

    return handle


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise _permanent(refusal)


def _permanent(refusal: Refusal) -> Permanent:
    return Permanent(refusal.code, refusal.reason, **refusal.details)
