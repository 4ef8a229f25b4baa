"""Event handlers of the rollback-controller: alerts, telemetry, releases, and operators' orders."""

from collections.abc import Callable
from typing import Any

from contracts.envelope import Event
from contracts.facts import (
    AlertRaised,
    AlertUpdated,
    CanaryAssessed,
    DeploymentChanged,
    DrillOrdered,
    InferenceBatch,
    OrderAccepted,
    OrderRefused,
    ReleaseFinished,
    ReleaseOpened,
    RollbackFailed,
    RollbackOrdered,
    RollbackTimeline,
    ShadowAssessed,
    SuspensionDecided,
    SuspensionJudged,
    VariantStaged,
)
from contracts.teams import Team
from contracts.vocabulary import ENVIRONMENTS
from decisions.rollback.rule import rollback_id
from services.rollback_controller.controller import Controller
from services.rollback_controller.operator_orders import OperatorOrders
from services.rollback_controller.ports import Alerts, Drills, Proofs, RememberedProbe, Routes, Traffic
from services.rollback_controller.rehearsal import Rehearsal
from services.rollback_controller.settings import RollbackControllerSettings
from services.rollback_controller.states import KnownPolicies, RollbackStates
from shared.errors import SlipwayError
from shared.messaging.bus import Bus
from shared.messaging.orders import order_refused
from shared.runtime.clock import Clock

_AT_ONCE = 8
"""Concurrent messages per type of event that may start a rollback: a silent standby or a slow log must not delay
rollbacks of other models."""


def build(
    bus: Bus,
    *,
    states: RollbackStates,
    routes: Routes,
    drills: Drills,
    alerts: Alerts,
    probe: RememberedProbe,
    traffic: Traffic,
    proofs: Proofs,
    teams: Callable[[], tuple[Team, ...]],
    settings: RollbackControllerSettings,
    clock: Clock,
) -> Controller:
    """Subscribe the handlers; return the controller: its `sweep` must run periodically for each record."""
    controller = Controller(
        states=states,
        routes=routes,
        alerts=alerts,
        probe=probe,
        clock=clock,
        rules=settings.rules,
        teams=teams,
        policies=KnownPolicies(states, proofs),
    )
    rehearsal = Rehearsal(
        bus=bus,
        states=states,
        routes=routes,
        drills=drills,
        alerts=alerts,
        traffic=traffic,
        proofs=proofs,
        clock=clock,
        pace=settings.pace,
        execute=controller.execute_pending,
    )
    _subscribe_watch(bus, controller)
    orders = OperatorOrders(controller, routes, drills, clock, settings.drilled_models)
    _subscribe_releases(bus, controller, rehearsal, orders)
    _subscribe_orders(bus, controller, orders)
    return controller


def _subscribe_watch(bus: Bus, controller: Controller) -> None:
    """Subscribe to alerts and telemetry of production and staging."""

    async def alert(event: Event[AlertRaised] | Event[AlertUpdated]) -> None:
        await controller.handle_alert(event, bus.received)

    async def inference(event: Event[InferenceBatch]) -> None:
        await controller.measure(event, bus.received.stored_at)

    for environment in ENVIRONMENTS:
        bus.on(AlertRaised, environment=environment, max_workers=_AT_ONCE)(alert)
        bus.on(AlertUpdated, environment=environment, max_workers=_AT_ONCE)(alert)
        bus.on(InferenceBatch, environment=environment, perishable=True)(inference)


def _subscribe_releases(bus: Bus, controller: Controller, rehearsal: Rehearsal, orders: OperatorOrders) -> None:
    bus.on(ReleaseOpened)(controller.record_policy)
    bus.on(VariantStaged)(rehearsal.rehearse)

    @bus.on(CanaryAssessed, max_workers=_AT_ONCE)
    async def canary_assessed(event: Event[CanaryAssessed]) -> DeploymentChanged | None:
        await controller.handle_assessment(event, bus.received)
        return await orders.take_away(event) if event.data.take_away else None

    @bus.on(ShadowAssessed, max_workers=_AT_ONCE)
    async def shadow_assessed(event: Event[ShadowAssessed]) -> None:
        await controller.handle_assessment(event, bus.received)

    @bus.on(ReleaseFinished, max_workers=_AT_ONCE)
    async def release_finished(event: Event[ReleaseFinished]) -> None:
        await controller.handle_release_end(event, bus.received)


def _subscribe_orders(bus: Bus, controller: Controller, orders: OperatorOrders) -> None:
    @bus.on(RollbackOrdered, failure=order_failed, max_workers=_AT_ONCE)
    async def rollback_ordered(event: Event[RollbackOrdered]) -> None:
        await controller.handle_order(event, bus.received)  # the record's outbox publishes the answer

    @bus.on(SuspensionDecided, failure=order_refused)
    async def suspension_decided(event: Event[SuspensionDecided]) -> list[DeploymentChanged | OrderAccepted]:
        changed = await orders.end_suspension(event, bus.received)
        return [changed, _accepted(event, changed)]

    bus.on(SuspensionJudged)(orders.judge)

    @bus.on(DrillOrdered, failure=order_refused)
    async def drill_ordered(event: Event[DrillOrdered]) -> OrderAccepted:
        await orders.order_drill(event, bus.received)
        return OrderAccepted(order_id=event.id, order_type=event.type)


def _accepted(event: Event[Any], changed: DeploymentChanged) -> OrderAccepted:
    details = {"target": event.data.target.model_dump(), "epoch": changed.route.epoch}
    return OrderAccepted(order_id=event.id, order_type=event.type, details=details)


def order_failed(event: Event[RollbackOrdered], error: SlipwayError) -> RollbackFailed | OrderRefused:
    """Return the answer to a refused rollback order: a failed rollback, or only a refused order.

    Malformed orders are only refused, because their id may be another rollback's; so are orders of foreign teams.
    """
    if event.data.failed is None or error.code in ("malformed_event", "team_mismatch"):
        return order_refused(event, error)
    return RollbackFailed(
        rollback_id=rollback_id(event.id),
        cause_id=event.id,
        failed=event.data.failed,
        mode="manual",
        timeline=RollbackTimeline(detected_at=event.time),
        code=error.code,
        reason=error.sentence(),
    )
