"""The handlers: each puts what a fact asks for into the record, and wakes the loop that does it."""

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
from services.server_manager.manager import Manager
from services.server_manager.ports import State
from shared.messaging.bus import Bus, Failed
from shared.runtime.clock import Clock

SERVICE = "server-manager"


def build(bus: Bus, *, manager: Manager, state: State, clock: Clock) -> None:
    """Subscribe the handlers.

    Waiting lives in the record, not in unacknowledged messages: a fact is acknowledged as soon as its order is
    written down.
    """

    @bus.on(StageRequested, failure=_staging_failed)
    async def stage(event: Event[StageRequested]) -> None:
        await state.edit(lambda record: staging.enqueue_staging(record, event))
        manager.wake()

    @bus.on(StageReleased)
    async def release(event: Event[StageReleased]) -> None:
        await state.edit(lambda record: staging.release_staging(record, event))
        manager.wake()

    @bus.on(TrafficRequested, failure=_order_failed)
    async def order(event: Event[TrafficRequested]) -> None:
        now = clock.now()
        await state.edit(lambda record: staging.enqueue_order(record, event, now))
        manager.wake()

    @bus.on(ReleaseFinished)
    async def finish(event: Event[ReleaseFinished]) -> None:
        await state.edit(lambda record: staging.finish_release(record, event))
        manager.wake()


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
