"""Time from the first bad request to the alert: the real monitor on a real bus, and fixed windows on the same streams.

One monitor process watches twenty models at three requests per second each (Poisson), ten per regression: errors that
rise from 1 % to 5 % where 2 % are allowed, and 800 ms added to every TTFT where 5 % may exceed 800 ms (1 % do before).
Records are sent when their request has ended, in batches every 0.25 s, as the gateway does. The delay is measured from
the arrival of the first bad request after the change to the alert on the bus.

For comparison: when the evidence of the same detector crosses its threshold on the same stream without any process,
without a time limit (the monitor is watched for 220 s only); and a fixed window with a failure count, as canary
controllers use, on the same streams: an alarm at the first, or the fifth, minute with more bad requests than allowed.
False alarms are counted in an hour of each stream without its change; the detector is reset after each.
Run: python benchmarks/bench_detection.py
"""

import asyncio
import math
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nats.aio.msg import Msg
from nats.js import JetStreamContext

from benchmarks.parts import quantile, show_table, until
from contracts import facts as f
from contracts.envelope import Event
from contracts.policy import Trigger
from decisions import evidence as ev
from decisions.triggers import detector_alpha, limit_of, observe
from services.monitor.domain.record import MonitorState
from shared.messaging.bus import publish_event
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.servers import NatsServer, S3Server, connection, running
from testbed.services import running_service

RATE_RPS = 3.0
RUNS = 10
CHANGE_S = 20.0
WATCHED_S = 220.0
LONGEST_S = 3600.0
BATCH_S = 0.25
WINDOW_S = 60.0
TTFT_MS, TTFT_SPREAD = 130.0, 0.78  # lognormal: 1 % above 800 ms
SLOW = Trigger(name="slow", metric="ttft_ms", threshold=800.0, allowed_ratio=0.05)
ERRORS = Trigger(name="errors", metric="error_ratio", threshold=0.02)
Alerts = dict[str, tuple[float, str]]
"""By model: when its alert was on the bus (seconds since the start of the stream), and its trigger."""
KINDS = {"errors": ERRORS, "slow": SLOW}
TITLES = {
    "errors": "errors 1 % to 5 %, 2 % allowed",
    "slow": "TTFT + 800 ms, 5 % may exceed 800 ms",
}


@dataclass(frozen=True)
class Request:
    """One request of a stream: when it arrives and ends (seconds since the start of the stream), and its record."""

    at_s: float
    ends_s: float
    ttft_ms: float | None
    e2e_ms: float
    failed: bool

    def record(self, model: str, began_s: float) -> f.Inference:
        at = datetime.fromtimestamp(began_s + self.at_s, UTC)
        return k.inference(
            request_id=uuid.uuid4().hex,
            target=k.target(2, "bf16", model),
            scheduled_at=at,
            sent_at=at,
            ttft_ms=self.ttft_ms,
            e2e_ms=self.e2e_ms,
            error="engine_failed" if self.failed else None,
            drill=None,
            canary=False,
            features=None,
            finish_reason=None if self.failed else "stop",
        )


def stream(kind: str, seed: int, change_s: float = CHANGE_S) -> Iterator[Request]:
    """Yield the requests of a model without an end; the same seed gives the same requests."""
    draw, at = random.Random(f"{kind}-{seed}"), 0.0
    while True:
        at += draw.expovariate(RATE_RPS)
        changed = at >= change_s
        failed = draw.random() < (0.05 if changed and kind == "errors" else 0.01)
        ttft = draw.lognormvariate(math.log(TTFT_MS), TTFT_SPREAD) + (800.0 if changed and kind == "slow" else 0.0)
        e2e = 150.0 if failed else ttft + 300.0
        yield Request(at, at + e2e / 1000, None if failed else ttft, e2e, failed)


def within(kind: str, seed: int, until_s: float, change_s: float = CHANGE_S) -> list[Request]:
    """Return a stream up to a time, in the order in which requests end."""
    return sorted(
        takewhile(lambda request: request.at_s < until_s, stream(kind, seed, change_s)),
        key=lambda request: request.ends_s,
    )


@cache
def outcomes(kind: str, seed: int, change_s: float = CHANGE_S) -> "Seen":
    """Return the requests of an hour that a kind's trigger counts, each with whether it was bad."""
    seen = [
        (request, observe(KINDS[kind], request.record(kind, 0.0)))
        for request in within(kind, seed, LONGEST_S, change_s)
    ]
    return [(request, bad) for request, bad in seen if bad is not None]


def first_bad_s(kind: str, seed: int) -> float:
    return min(request.at_s for request, bad in outcomes(kind, seed) if bad and request.at_s >= CHANGE_S)


# -- the same streams, without a process ------------------------------------------------------------------------------


Seen = list[tuple[Request, bool]]
Watcher = Callable[[Trigger, Seen], float | None]


def evidence_s(trigger: Trigger, seen: Seen) -> float | None:
    """Return when the e-detector's evidence crosses its threshold."""
    bet, line, sums = ev.plan_bet(limit_of(trigger)), -math.log(detector_alpha(trigger)), ()
    for number, (request, bad) in enumerate(seen, start=1):
        sums = ev.step_sums(sums, bet, bad)
        if number >= trigger.min_requests and ev.log_mean_exp(sums, bet.log_weight) >= line:
            return request.ends_s
    return None


def fixed_s(trigger: Trigger, seen: Seen, failures: int) -> float | None:
    """Return when a fixed window has failed a number of times."""
    windows: dict[int, list[bool]] = {}
    for request, bad in seen:
        windows.setdefault(int(request.ends_s // WINDOW_S), []).append(bad)
    failed = [number for number, bads in sorted(windows.items()) if sum(bads) / len(bads) > limit_of(trigger)]
    return (failed[failures - 1] + 1) * WINDOW_S if len(failed) >= failures else None


WATCHERS: dict[str, Watcher] = {
    "its evidence alone": evidence_s,
    "fixed minute, 1 failure": partial(fixed_s, failures=1),
    "fixed minute, 5 failures": partial(fixed_s, failures=5),
}


def false_alarms(watcher: Watcher, kind: str) -> int:
    """Return the number of alarms in an hour of each healthy stream; the watcher is reset after each."""
    alarms = 0
    for seed in range(RUNS):
        seen = outcomes(kind, seed, math.inf)
        while (at := watcher(KINDS[kind], seen)) is not None:
            alarms += 1
            seen = [(request, bad) for request, bad in seen if request.ends_s > at]
    return alarms


# -- the real monitor -------------------------------------------------------------------------------------------------


def event_of(fact: f.Fact, model: str) -> Event:
    return Event[type(fact)](
        id=str(uuid.uuid4()),
        source=k.source_for(type(fact)),
        type=fact.TYPE,
        subject=model,
        time=datetime.now(UTC),
        correlationid=f"r-{model}",
        data=fact,
    )


async def start_watching(js: JetStreamContext, models: list[str]) -> None:
    """Make version 2 of each model active with the declared triggers, and wait until the monitor watches it."""
    for model in models:
        policy = k.policy(triggers=(SLOW, ERRORS))
        opened = k.fact(f.ReleaseOpened, version=2, model=model, release_id=f"r-{model}", policy=policy)
        route = k.route(
            model=model, active=k.served(2, "bf16", model), previous=None, history=(), canary=None, quarantined=()
        )
        await publish_event(js, event_of(opened, model))
        await publish_event(
            js, event_of(f.DeploymentChanged(route=route, cause="promote", at=datetime.now(UTC)), model)
        )
    bucket = Bucket(js, "alerts", MonitorState)

    async def watched() -> bool:
        entries = [await bucket.get(f"production.{model}") for model in models]
        return all(entry and entry.value.targets and "2" in entry.value.policies for entry in entries)

    await until(watched)


async def send(js: JetStreamContext, streams: dict[str, list[Request]], began_s: float, alerts: Alerts) -> None:
    """Send the records of ended requests every 0.25 s, until every model has its alert or the time is over."""
    waiting = {model: iter(requests) for model, requests in streams.items()}
    held = {model: next(requests) for model, requests in waiting.items()}
    while (now := time.time() - began_s) < CHANGE_S + WATCHED_S and len(alerts) < len(streams):
        batches = {}
        for model in streams:
            records = []
            while held[model].ends_s <= now:
                records.append(held[model].record(model, began_s))
                held[model] = next(waiting[model])
            if records:
                batches[model] = f.InferenceBatch(gateway="gateway-1", records=tuple(records))
        await asyncio.gather(*(publish_event(js, event_of(batch, model)) for model, batch in batches.items()))
        await asyncio.sleep(max(0.0, BATCH_S - (time.time() - began_s - now)))


async def watch() -> Alerts:
    """Return the alerts of the real monitor."""
    streams = {
        f"{kind}-{seed}": within(kind, seed, CHANGE_S + WATCHED_S + 60) for kind in KINDS for seed in range(RUNS)
    }
    alerts: Alerts = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bus, store = stack.enter_context(running(NatsServer(folder))), stack.enter_context(running(S3Server(folder)))
        client = await bus.connect()
        js = client.jetstream(timeout=10)
        await provision(js)
        stack.enter_context(running_service("services.monitor.main", connection(bus, store, folder / "monitor")))
        await start_watching(js, list(streams))
        began_s = time.time()

        async def take(message: Msg) -> None:
            event = Event[f.AlertRaised].model_validate_json(message.data)
            stored_s = message.metadata.timestamp.timestamp() - began_s
            alerts.setdefault(event.subject, (stored_s, event.data.trigger or ""))

        subscription = await js.subscribe("slipway.alert.raised.v1.>", cb=take, ordered_consumer=True)
        await send(js, streams, began_s, alerts)
        await subscription.unsubscribe()
        await client.close()
    return alerts


def row(name: str, moments: dict[int, float | None], kind: str, alarms: str) -> list[str]:
    """Return a row of delays since the first bad request; earlier alarms are counted apart, missed are infinite."""
    known = {seed: math.inf if at is None else at - first_bad_s(kind, seed) for seed, at in moments.items()}
    late = [delay for delay in known.values() if delay >= 0.0]
    quantiles = [quantile(late, share) for share in (0.5, 0.9, 1.0)]
    cells = [f"{delay:.1f}" if delay < math.inf else "later" for delay in quantiles]
    return [
        name,
        f"{sum(delay < math.inf for delay in late)} of {len(late)}",
        *cells,
        str(len(known) - len(late)),
        alarms,
    ]


def alert_s(alerts: Alerts, kind: str, seed: int) -> float | None:
    """Return when the alert of the trigger whose metric had changed was on the bus, or None."""
    at_s, trigger = alerts.get(f"{kind}-{seed}", (0.0, ""))
    return at_s if trigger == kind else None


def compare(kind: str, alerts: Alerts) -> list[list[str]]:
    """Return the rows of one regression."""
    seeds = range(RUNS)
    live = {seed: alert_s(alerts, kind, seed) for seed in seeds}
    rows = [row(f"monitor, watched for {WATCHED_S:.0f} s", live, kind, "-")]
    for name, watcher in WATCHERS.items():
        moments = {seed: watcher(KINDS[kind], outcomes(kind, seed)) for seed in seeds}
        rows.append(row(name, moments, kind, str(false_alarms(watcher, kind))))
    return rows


def main() -> None:
    print(f"{RUNS} models per regression at {RATE_RPS:g} requests/s; alpha {SLOW.alpha}, minimum {SLOW.min_requests}")
    alerts = asyncio.run(watch())
    head = ("watcher", "found", "median", "90th percentile", "max", "before it", f"in {RUNS} healthy hours")
    for kind, title in TITLES.items():
        print(f"\nSeconds from the first bad request to the alarm, and false alarms: {title}\n")
        show_table(head, compare(kind, alerts))
    others = [model for model, (_, trigger) in alerts.items() if not model.startswith(trigger)]
    print(f"\nAlerts of a trigger whose metric had not changed: {len(others)} of {2 * RUNS}")


if __name__ == "__main__":
    main()
