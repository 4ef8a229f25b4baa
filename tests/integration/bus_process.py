"""A bus of a service, and the facts that it handles."""

import asyncio
import contextlib
from datetime import UTC, datetime

from contracts.envelope import Event
from contracts.facts import VariantFailed, VariantRequested
from contracts.services import EVENTS
from contracts.vocabulary import ArtifactRef, digest_of
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock

REF = ArtifactRef(uri="s3://slipway/manifests/merged/x.json", digest=digest_of(b"x"), size_bytes=1)


def requested(event_id: str, model: str = "support-bot") -> Event[VariantRequested]:
    return Event[VariantRequested](
        id=event_id,
        source="/slipway/registry",
        type=VariantRequested.TYPE,
        subject=model,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        correlationid="r-1",
        data=VariantRequested(release_id="r-1", variant="int8", merged=REF),
    )


def failed_fact(code="engine_failed"):
    return VariantFailed(variant="int8", step="quantise", code=code, reason="no")


@contextlib.asynccontextmanager
async def running_bus(settings, handler, failure=None):
    bus = Bus(settings, "quantiser", SystemClock())
    bus.on(VariantRequested, failure=failure)(handler)
    await bus.broker.start()
    try:
        yield bus
    finally:
        await bus.broker.stop()


async def facts(js, fact, count=1, timeout_s=15.0):
    """Wait for a number of stored facts of one type."""
    async with asyncio.timeout(timeout_s):
        while True:
            state = (await js.stream_info(EVENTS, subjects_filter=f"{fact.TYPE}.>")).state
            if sum((state.subjects or {}).values()) >= count:
                break
            await asyncio.sleep(0.05)
    sub = await js.pull_subscribe(f"{fact.TYPE}.>", stream=EVENTS)
    messages = await sub.fetch(100, timeout=1)
    await sub.unsubscribe()
    return [Event[fact].model_validate_json(message.data) for message in messages]
