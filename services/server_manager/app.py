"""Subscribes the handlers: each writes what a fact asks for into the record, and wakes the loop that does it."""

from contracts.envelope import Event
from contracts.facts import (
    PromotionRefused,
    ReleaseFinished,
    StageReleased,
    StageRequested,
    TrafficRequested,
    VariantFailed,
)
from services.server_manager.domain import staging
from services.server_manager.fleet_state import FleetState
from services.server_manager.manager import Manager
from services.server_manager.ports import Artifacts, Engine, Leadership, Routes
from services.server_manager.settings import ServerManagerSettings
from shared.messaging.bus import Bus, Failed
from shared.runtime.clock import Clock

SERVICE = "server-manager"


def build(
    bus: Bus,
    *,
    engine: Engine,
    artifacts: Artifacts,
    state: FleetState,
    routes: Routes,
    lead: Leadership,
    settings: ServerManagerSettings,
    clock: Clock,
) -> Manager:
    """Subscribe the handlers; return the manager, whose `run` must run beside them.

    Waiting lives in the record, not in unacknowledged messages: a fact is acknowledged as soon as its order is
    written.
    """
    manager = Manager(
        engine=engine,
        artifacts=artifacts,
        state=state,
        routes=routes,
        lead=lead,
        report_progress=bus.progress,
        clock=clock,
        limits=settings.limits,
        tick_s=settings.tick_s,
    )

    @bus.on(StageRequested, failure=_staging_failed)
    async def stage(event: Event[StageRequested]) -> None:
        await state.write(lambda record: staging.enqueue_staging(record, event))
        manager.wake()

    @bus.on(StageReleased)
    async def release(event: Event[StageReleased]) -> None:
        await state.write(lambda record: staging.release_staging(record, event))
        manager.wake()

    @bus.on(TrafficRequested, failure=_order_failed)
    async def order(event: Event[TrafficRequested]) -> None:
        now = clock.now()
        await state.write(lambda record: staging.enqueue_order(record, event, now))
        manager.wake()

    @bus.on(ReleaseFinished)
    async def finish(event: Event[ReleaseFinished]) -> None:
        await state.write(lambda record: staging.finish_release(record, event))
        manager.wake()

    return manager


def _staging_failed(failed: Failed) -> VariantFailed | None:
    event, error = failed.event, failed.error
    if event is None:
        return None
    return VariantFailed(
        variant=event.data.candidate.target.variant,
        step="stage",
        code=error.code,
        reason=error.reason,
        purpose=event.data.purpose,
    )


def _order_failed(failed: Failed) -> PromotionRefused | None:
    event, error = failed.event, failed.error
    if event is None:
        return None
    return PromotionRefused(target=event.data.target.target, code=error.code, reason=error.reason)
