"""The rollback-controller as a process on a real bus."""

import asyncio
import uuid

from contracts import facts as f
from contracts.envelope import Event, source_of
from contracts.routes import Route
from services.rollback_controller.domain.record import RollbackState
from shared.messaging.bus import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import factories as k

MODULE = "services.rollback_controller.main"


CLOCK = SystemClock()


MODEL = "toy"


QUICK = {
    "ROLLBACK_CONTROLLER_VERIFY_S": "4",
    "ROLLBACK_CONTROLLER_SWEEP_S": "0.3",
    "ROLLBACK_CONTROLLER_PROBE_S": "3",
    "ROLLBACK_CONTROLLER_PRODUCTION_DRILLS": MODEL,
}


TRIGGERS = (
    k.trigger(name="slow"),
    k.trigger(name="refusals", metric="refusal_ratio", threshold=0.2, action="manual"),
)


async def publish(js, fact, *, event_id=None, environment="production", model=MODEL, sender=None):
    event = Event[type(fact)](
        id=event_id or str(uuid.uuid4()),
        source=k.source_for(type(fact)) if sender is None else source_of(sender),
        type=fact.TYPE,
        subject=model,
        time=CLOCK.now(),
        correlationid="r-2",
        environment=environment,
        data=fact,
    )
    await publish_event(js, event)
    return event.id


async def learn(js, *versions, triggers=TRIGGERS, **declared):
    policy = k.policy(triggers=triggers, **declared)
    for version in versions:
        opened = k.fact(f.ReleaseOpened, version=version, model=MODEL, release_id=f"r-{version}", policy=policy)
        await publish(js, opened)
    bucket = Bucket(js, "rollbacks", RollbackState)
    async with asyncio.timeout(60):
        while not (entry := await bucket.get(f"production.{MODEL}")) or set(entry.value.triggers) < set(
            map(str, versions)
        ):
            await asyncio.sleep(0.05)


async def put_route(js, toy, *, active=2, previous=1, canary=None, history=(), epoch=7) -> Route:
    share = k.CanaryShare(served=toy[canary], weight_ratio=0.3) if canary else None
    behind = toy.get(previous) or (
        k.served(previous, "bf16", MODEL, endpoints=toy[active].endpoints) if previous else None
    )
    route = Route(
        model=MODEL,
        epoch=epoch,
        active=toy[active],
        previous=behind,
        canary=share,
        history=tuple(toy[version] for version in history),
        cause_id="before",
    )
    await Bucket(js, "routes", Route).create(MODEL, route)
    return route


async def route_of(js) -> Route:
    return (await Bucket(js, "routes", Route).get(MODEL)).value


def target(version):
    return k.target(version, "bf16", MODEL)


def alert(version=2, *, kind=f.AlertRaised, trigger="slow", number=1):
    return kind(
        alert_id=f"{target(version)}/{trigger}/{number}",
        kind="latency",
        severity="critical",
        target=target(version),
        trigger=trigger,
        value=0.9,
        limit=0.05,
        message="slow",
        first_bad_at=CLOCK.now(),
        raised_at=CLOCK.now(),
    )


def requests(version, count=8, **changes):
    now = CLOCK.now()
    about = {
        "target": target(version),
        "scheduled_at": now,
        "sent_at": now,
        "error": None,
        "drill": None,
        "canary": False,
        "ttft_ms": 50.0,
        "e2e_ms": 90.0,
        "environment": "production",
    }
    records = [k.inference(request_id=uuid.uuid4().hex, **(about | changes)) for _ in range(count)]
    return f.InferenceBatch(gateway="gateway-test", records=tuple(records))
