"""Time from an alert until all new traffic is on the previous version, under load, with the real parts.

NATS (every write synced to disk), Triton with two toy targets, a gateway and the rollback-controller run in their own
processes, under an open-loop load. Twenty times, version 2 becomes active with version 1 as the previous target, and
`alert.raised` of a declared automatic trigger is published, as the monitor does. The benchmark measures, with the clock
of one machine, the time until the new route is stored (NATS's timestamp), until the last request that version 2
answered was sent, and until the first request was sent after which version 1 answered all. The table of steps uses the
timestamps of the records and events of the controller.

For comparison, in the same run: a rollback by reloading a previous version that was not kept loaded: load it into
Triton, wait for its first token, write the route. A toy target loads in a fraction of the time of a real one, so this
is a lower bound. Run: python benchmarks/bench_rollback.py [--attached], with it on attached servers instead of Triton.
"""

import asyncio
import random
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import DeliverPolicy

from benchmarks.parts import MODEL, Parts, Steady, quantile, show_table, steady, toy_parts, until
from contracts import facts as f
from contracts.envelope import Event
from contracts.routes import Route
from services.rollback_controller.domain.record import RollbackState
from shared.messaging.bus import publish_event
from shared.serving.channels import Channels
from shared.serving.inference import first_token
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.gateway import order
from testbed.servers import connection
from testbed.services import running_service

RATE_RPS = 100
ROLLBACKS = 20
RELOADS = 5
LIMIT_MS = 30
TRIGGER = k.trigger(name="slow")
FAILED, BACK = f"{MODEL}@v2", f"{MODEL}@v1"
SETTLED = 20
STEPS = (
    ("alert stored", "the alert is on the bus"),
    ("decided", "the controller receives it and decides"),
    ("recorded", "the decision is recorded"),
    ("switched", "previous is ready, route written"),
    ("started", "rollback.started is published"),
)


@dataclass
class Round:
    """One rollback: all times in milliseconds since the alert."""

    stored_ms: float
    last_failed_ms: float
    all_back_ms: float
    steps: dict[str, float] = field(default_factory=dict)


@dataclass
class Watcher:
    """Records the messages of routes, rollbacks and alerts, with the server's timestamps."""

    seen: list[tuple[float, str, bytes]] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)

    async def start(self, parts: Parts) -> None:
        for subject in (
            f"$KV.routes.{MODEL}",
            f"$KV.rollbacks.production.{MODEL}",
            "slipway.alert.raised.v1.>",
            "slipway.rollback.*.v1.>",
        ):
            self.subscriptions.append(
                await parts.js.subscribe(
                    subject, cb=self._take, ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
                )
            )

    async def stop(self) -> None:
        for subscription in self.subscriptions:
            await subscription.unsubscribe()

    async def _take(self, message: Msg) -> None:
        self.seen.append((message.metadata.timestamp.timestamp(), message.subject, message.data))

    async def has(self, what: str, since_s: float) -> bool:
        return any(what in subject and at >= since_s for at, subject, _ in self.seen)

    def first(self, what: str, since_s: float) -> tuple[float, bytes]:
        """Return timestamp and body of the first message on a subject since a time."""
        return min((at, data) for at, subject, data in self.seen if what in subject and at >= since_s)


def event_of(fact: f.Fact) -> Event:
    return Event[type(fact)](
        id=str(uuid.uuid4()),
        source=k.source_for(type(fact)),
        type=fact.TYPE,
        subject=MODEL,
        time=datetime.now(UTC),
        correlationid="r-2",
        data=fact,
    )


def alert() -> f.AlertRaised:
    now, target = datetime.now(UTC), k.target(2, "bf16", MODEL)
    return f.AlertRaised(
        alert_id=f"{target}/slow/{uuid.uuid4().hex}",
        kind="latency",
        severity="critical",
        target=target,
        trigger="slow",
        value=0.9,
        limit=0.05,
        message="slow",
        first_bad_at=now,
        raised_at=now,
    )


async def put_route(parts: Parts, load: Steady, active: int, previous: int | None) -> None:
    """Write a fresh route under the next epoch, and wait until requests are answered by it."""
    bucket = Bucket(parts.js, "routes", Route)
    entry = await bucket.get(MODEL)
    epoch = entry.value.epoch + 1 if entry else 1
    previous_target = parts.toy[previous] if previous else None
    route = Route(
        model=MODEL, epoch=epoch, active=parts.toy[active], previous=previous_target, cause_id=f"fresh-{epoch}"
    )
    await (bucket.create(MODEL, route) if entry is None else bucket.update(MODEL, route, entry.revision))
    await answered_by(load, f"{MODEL}@v{active}")


async def answered_by(load: Steady, release: str) -> None:
    async def settled() -> bool:
        return [request.version for request in load.sent if request.version][-SETTLED:] == [release] * SETTLED

    await until(settled)


async def open_releases(parts: Parts) -> None:
    """Publish the declared trigger of both versions, and wait until the controller has recorded it."""
    for version in (1, 2):
        policy = k.policy(triggers=(TRIGGER,))
        opened = k.fact(f.ReleaseOpened, version=version, model=MODEL, release_id=f"r-{version}", policy=policy)
        await publish_event(parts.js, event_of(opened))
    bucket = Bucket(parts.js, "rollbacks", RollbackState)

    async def known() -> bool:
        entry = await bucket.get(f"production.{MODEL}")
        return entry is not None and set(entry.value.triggers) == {"1", "2"}

    await until(known)


def sent_since(load: Steady, asked_s: float) -> tuple[float, float]:
    """Return when the last request that the failed version answered was sent, and the first after it, in ms."""
    since = [request for request in load.sent if request.at_s >= asked_s and request.version]
    last = max((request.at_s for request in since if request.version == FAILED), default=asked_s)
    after = min(request.at_s for request in since if request.at_s > last and request.version == BACK)
    return (last - asked_s) * 1000, (after - asked_s) * 1000


async def roll_back(parts: Parts, load: Steady, watcher: Watcher) -> Round:
    await put_route(parts, load, 2, 1)
    await asyncio.sleep(random.uniform(0.2, 0.5))
    event = event_of(alert())
    asked_s = time.time()
    await publish_event(parts.js, event)
    await answered_by(load, BACK)
    await until(lambda: watcher.has("rollback.completed", asked_s))
    await asyncio.sleep(0.3)
    last, after = sent_since(load, asked_s)
    started_s, started = watcher.first("rollback.started", asked_s)
    decided = Event[f.RollbackStarted].model_validate_json(started).data.timeline.decided_at
    moments = {
        "alert stored": watcher.first("alert.raised", asked_s)[0],
        "decided": decided.timestamp(),
        "recorded": watcher.first("$KV.rollbacks", asked_s)[0],
        "started": started_s,
        "switched": watcher.first("$KV.routes", asked_s)[0],
    }
    steps = {name: (at - asked_s) * 1000 for name, at in moments.items()}
    return Round(steps["switched"], last, after, steps)


async def reload(parts: Parts, load: Steady, channels: Channels) -> Round:
    """Roll back to a target that is not loaded: load it, wait for its first token, write the route."""
    await put_route(parts, load, 2, None)
    name = str(parts.toy[1].target)
    await asyncio.to_thread(order, parts.triton, name, "unload")
    await asyncio.sleep(0.5)
    asked_s = time.time()
    await asyncio.to_thread(order, parts.triton, name, "load")
    await first_token(channels.get(parts.triton.endpoint), name)
    loaded_s = time.time()
    await put_route(parts, load, 1, None)
    return Round((loaded_s - asked_s) * 1000, *sent_since(load, asked_s))


async def probe_alone(parts: Parts, channels: Channels) -> list[float]:
    """Probe the previous target for its first token, as the controller does, under the same load."""
    took = []
    for _ in range(ROLLBACKS):
        began = time.perf_counter()
        await first_token(channels.get(parts.toy[1].endpoints[0]), str(parts.toy[1].target))
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.1)
    return took


def figures(values: list[float], digits: int = 0) -> list[str]:
    return [f"{quantile(values, share):.{digits}f}" for share in (0.5, 0.95, 0.99, 1.0)]


def show(rounds: list[Round], reloads: list[Round], probes: list[float]) -> None:
    head = ("ms since the alert", "p50", "p95", "p99", "max", "limit")
    limit, by_reload = str(LIMIT_MS), f"by reload ({RELOADS} times): "
    rows = [
        ["the new route is stored", *figures([measured.stored_ms for measured in rounds]), ""],
        [
            "last request sent that the failed version answered",
            *figures([measured.last_failed_ms for measured in rounds]),
            limit,
        ],
        ["first sent from which on all go back", *figures([measured.all_back_ms for measured in rounds]), limit],
    ]
    for what, values in {
        "previous loaded, first token": [measured.stored_ms for measured in reloads],
        "first sent from which on all go back": [measured.all_back_ms for measured in reloads],
    }.items():
        rows += [[by_reload + what, *figures(values), ""]] if values else []
    show_table(head, rows)
    print(f"\np99 of {len(rounds)} is the maximum. The resolution is {1000 / RATE_RPS:.0f} ms, the request interval.")
    print("\nDuration of each step, ms:\n")
    steps, before = [], dict.fromkeys(range(len(rounds)), 0.0)
    for name, what in STEPS:
        spans = [measured.steps[name] - before[number] for number, measured in enumerate(rounds)]
        before = {number: measured.steps[name] for number, measured in enumerate(rounds)}
        steps.append([what, *figures(spans, 1)])
    steps.append(["(a probe alone, under the same load)", *figures(probes, 1)])
    show_table(("step", "p50", "p95", "p99", "max"), steps)


async def main() -> None:
    attached = "--attached" in sys.argv[1:]
    where = "attached servers" if attached else "Triton"
    print(f"{ROLLBACKS} rollbacks at {RATE_RPS} requests a second, on {where}\n", flush=True)
    channels = Channels()
    async with toy_parts(attached=attached) as parts:
        settings = connection(parts.nats, None, parts.folder / "controller")
        gateway = parts.gateway.rehearsal_variables
        with running_service("services.rollback_controller.main", settings, **gateway):
            watcher = Watcher()
            await watcher.start(parts)
            await open_releases(parts)
            async with steady(parts.gateway, RATE_RPS) as load:
                await put_route(parts, load, 1, None)  # the previous version has served before, as in production
                rounds = [await roll_back(parts, load, watcher) for _ in range(ROLLBACKS)]
                probes = await probe_alone(parts, channels)
                reloads = [] if attached else [await reload(parts, load, channels) for _ in range(RELOADS)]
            await watcher.stop()
        await channels.close()
    show(rounds, reloads, probes)
    failed = [request.failed for request in load.sent if request.failed]
    took = [request.took_ms for request in load.sent if not request.failed]
    print(
        f"\n{len(failed)} of {len(load.sent)} requests failed; answers took {quantile(took, 0.5):.0f} ms (p50), "
        f"{quantile(took, 0.99):.0f} ms (p99)."
    )
    for reason in sorted(set(failed))[:5]:
        print(f"  {reason}")


if __name__ == "__main__":
    asyncio.run(main())
