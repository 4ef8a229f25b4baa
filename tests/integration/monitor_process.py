"""The monitor as a process, and the telemetry that it reads."""

import asyncio
import uuid
from datetime import timedelta

from contracts import facts as f
from contracts.envelope import Event
from contracts.facts.watch import Features
from contracts.policy import Canary
from services.monitor.domain.record import MonitorState
from shared.messaging.bus import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import factories as k

MODULE = "services.monitor.main"


CLOCK = SystemClock()


QUICK = {
    "MONITOR_WINDOW_S": "2",
    "MONITOR_LATENESS_S": "1",
    "MONITOR_SWEEP_S": "0.2",
    "MONITOR_UPDATE_EVERY_S": "1",
    "MONITOR_ASSESS_EVERY_S": "0.5",
    "MONITOR_QUIET_S": "3",
    "MONITOR_DRIFT_ROWS": "200",
}


TRIGGERS = (
    k.trigger(window_s=2.0),
    k.trigger(name="errors", metric="error_ratio", threshold=0.02, window_s=2.0),
)


def envelope(fact, *, environment="production", event_id=None, correlation="r-7", model=k.MODEL):
    return Event[type(fact)](
        id=event_id or str(uuid.uuid4()),
        source=k.source_for(type(fact)),
        type=fact.TYPE,
        subject=model,
        time=CLOCK.now(),
        correlationid=correlation,
        environment=environment,
        data=fact,
    )


async def publish(js, fact, **about):
    await publish_event(js, envelope(fact, **about))


def record(*, version=7, ago_s=0.0, **changes):
    at = CLOCK.now() - timedelta(milliseconds=400 + ago_s * 1000)
    whole = {
        "request_id": uuid.uuid4().hex,
        "target": k.target(version),
        "scheduled_at": at,
        "sent_at": at,
        "ttft_ms": 100.0,
        "e2e_ms": 400.0,
        "error": None,
        "drill": None,
        "canary": False,
        "features": Features(prompt_chars=200, output_chars=120, non_letter_ratio=0.2, repetition_ratio=0.02),
    }
    return k.inference(**(whole | changes))


def slow(**changes):
    return record(**({"ttft_ms": 3000.0} | changes))


def for_seconds(make, seconds, *, ago_s=0.0, **about):
    """Return two requests a second, over so many seconds, the last of which ended `ago_s` seconds ago."""
    return [make(ago_s=ago_s + number / 2, **about) for number in reversed(range(2 * seconds))]


def batch(records):
    return f.InferenceBatch(gateway="gateway-test", records=tuple(records))


async def open_release(js, version, *, triggers=TRIGGERS, min_requests=100):
    policy = k.policy(triggers=triggers, canary=Canary(steps=(0.3,), min_requests=min_requests, beta=0.5))
    opened = k.fact(f.ReleaseOpened, version=version, release_id=f"r-{version}", policy=policy)
    await publish(js, opened, correlation=f"r-{version}")


async def go_live(js, *, active=7, canary=None, epoch=1, environment="production"):
    share = k.CanaryShare(served=k.served(canary), weight_ratio=0.3) if canary else None
    route = k.route(active=k.served(active), canary=share, previous=None, history=(), quarantined=(), epoch=epoch)
    changed = f.DeploymentChanged(route=route, cause="canary" if canary else "promote", at=CLOCK.now())
    await publish(js, changed, environment=environment, correlation=f"r-{canary or active}")


async def watched(js, target, *, environment="production", model=k.MODEL):
    """Wait until the monitor watches a target by its policy."""
    bucket = Bucket(js, "alerts", MonitorState)
    async with asyncio.timeout(60):
        while True:
            entry = await bucket.get(f"{environment}.{model}")
            if entry and str(target) in entry.value.targets and str(target.version) in entry.value.policies:
                return
            await asyncio.sleep(0.05)


async def live(js, **about):
    await open_release(js, 7)
    await go_live(js, **about)
    await watched(js, k.target(7))


async def settled_watch(js, applied):
    """Wait until the monitor has applied a batch, and give its record."""
    bucket = Bucket(js, "alerts", MonitorState)
    async with asyncio.timeout(60):
        while True:
            entry = await bucket.get(f"production.{k.MODEL}")
            if entry and applied in entry.value.applied:
                return entry.value
            await asyncio.sleep(0.05)


async def keep_running(process, deaths):
    """Start the monitor again whenever it dies."""
    while True:
        if process.process.poll() is not None:
            deaths.append(process.process.returncode)
            process.start()
        await asyncio.sleep(0.05)
