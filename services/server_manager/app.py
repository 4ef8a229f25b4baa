"""Event handlers: each writes an order into the fleet's record, and wakes the reconcile loop that executes it."""

from collections.abc import Collection
from dataclasses import replace

from contracts.codes import Code
from contracts.envelope import Event
from contracts.facts import (
    EndpointOrdered,
    PromotionRefused,
    ReleaseFinished,
    ReleaseOpened,
    StageReleased,
    StageRequested,
    TrafficRequested,
    VariantFailed,
)
from decisions.serving.runtimes import why_no_runtime
from services.server_manager.adapters.kv_state import KvLeadership
from services.server_manager.attached_models import AttachedModels
from services.server_manager.domain import staging
from services.server_manager.domain.drains import enqueue_endpoint_order
from services.server_manager.domain.records import EndpointOrder
from services.server_manager.domain.servable_variants import Hardware, why_not_servable
from services.server_manager.fleet_state import FleetState
from services.server_manager.manager import Manager
from services.server_manager.ports import Artifacts, Engines, Routes, RuntimesView
from services.server_manager.settings import ServerManagerSettings
from shared.errors import SlipwayError
from shared.messaging.bus import Bus, Emit
from shared.messaging.orders import check_age, order_refused
from shared.runtime.clock import Clock

SERVICE = "server-manager"


def build(
    bus: Bus,
    *,
    engines: Engines,
    attached: AttachedModels,
    artifacts: Artifacts,
    state: FleetState,
    routes: Routes,
    lead: KvLeadership,
    view: RuntimesView,
    hardware: Hardware,
    settings: ServerManagerSettings,
    clock: Clock,
) -> Manager:
    """Subscribe the handlers; return the manager: its `run` must run beside them.

    Orders wait in the record, not in unacknowledged messages: an event is acknowledged once its order is written.
    `hardware` is the fleet's, declared or detected.
    """
    limits = replace(settings.limits, hardware=hardware, attached=attached.names)
    manager = Manager(
        engines=engines,
        attached=attached,
        view=view,
        artifacts=artifacts,
        state=state,
        routes=routes,
        lead=lead,
        report_progress=bus.progress,
        clock=clock,
        limits=limits,
        tick_s=settings.tick_s,
    )

    @bus.on(ReleaseOpened)
    async def refuse_unservable(event: Event[ReleaseOpened]) -> list[Emit]:
        if event.data.returns is not None or await attached.has(event.subject):
            return []
        return refuse_variants(event.data, limits.hardware, limits.runtimes)

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

    @bus.on(EndpointOrdered, failure=order_refused)
    async def order_endpoint(event: Event[EndpointOrdered]) -> None:
        stored_at = bus.received.stored_at
        check_age(event, stored_at, clock.now(), until=event.data.expires_at)
        order = EndpointOrder(event=event, received_at=stored_at)
        await state.write(lambda record: enqueue_endpoint_order(record, order))
        manager.wake()

    @bus.on(ReleaseFinished)
    async def finish(event: Event[ReleaseFinished]) -> None:
        await state.write(lambda record: staging.finish_release(record, event))
        manager.wake()

    return manager


def refuse_variants(opened: ReleaseOpened, hardware: Hardware, runtimes: Collection[str]) -> list[Emit]:
    """Return a failure for each requested variant that the fleet's hardware or runtimes cannot serve."""
    missing = why_no_runtime(opened.serving, runtimes)
    emits = []
    for variant in dict.fromkeys(opened.variants):
        code: Code = "variant_not_servable" if missing is None else "runtime_unknown"
        reason = why_not_servable(variant, hardware, opened.serving) if missing is None else missing
        if reason is not None:
            emits.append(Emit(VariantFailed(variant=variant, step="stage", code=code, reason=reason), key=variant))
    return emits


def _staging_failed(event: Event[StageRequested], error: SlipwayError) -> VariantFailed:
    return VariantFailed(
        variant=event.data.candidate.target.variant,
        step="stage",
        code=error.code,
        reason=error.reason,
        purpose=event.data.purpose,
    )


def _order_failed(event: Event[TrafficRequested], error: SlipwayError) -> PromotionRefused:
    return PromotionRefused(target=event.data.target.target, code=error.code, reason=error.reason)
