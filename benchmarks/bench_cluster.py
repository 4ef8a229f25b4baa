"""Rollbacks on three NATS servers under load, while the leader of the routes steps down, is killed or cut off.

Three NATS servers (every write synced to disk), Triton with two toy targets, a gateway and the rollback-controller run
in their own processes, under an open-loop load; two clients publish facts, and one changes a record, without a pause.
Before each rollback a disturbance is drawn: none, the leader of `routes` steps down, dies by kill -9, or is cut off
from the other servers. The alert is published right after it. The switch is the time from the moment at which the alert
was to be published until the first request was sent from which on the previous version answered all. What is killed or
cut off comes back after the rollback. At the end facts and records are counted. With `--results FILE` each rollback and
each run is appended to that file, a run makes what is missing of the rollbacks, and the tables are of all of them. Run:
python -m benchmarks.bench_cluster [--rollbacks 200] [--minutes M] [--rate 100] [--seed N] [--results FILE]
"""

import argparse
import asyncio
import contextlib
import functools
import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nats.js.errors import NotFoundError

from benchmarks.bench_rollback import BACK as BEHIND
from benchmarks.bench_rollback import FAILED, alert, answered_by, event_of, open_releases, put_route
from benchmarks.parts import MODEL, Parts, Steady, quantile, show_table, steady, until
from contracts import facts as f
from contracts.envelope import Event, nats_subject
from contracts.services import EVENTS
from shared.errors import Transient
from shared.messaging.patience import PatientJetStream
from shared.messaging.publishing import publish_event
from testbed.cluster import Cluster, Member, ignore, provisioned, running_cluster
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from testbed.services import running_service, stored_facts
from testbed.triton import TritonServer
from testbed.written import Counted, Published, audit, writing

STREAM = "KV_routes"
RATE_RPS = 100
LIMITS_MS = {"none": 50.0, "step down": 2_000.0, "kill -9": 12_000.0, "cut off": None}
"""The most that the 99th percentile of the switch may take; a partition has no limit."""
DRAWN = {"none": 3, "step down": 3, "kill -9": 2, "cut off": 2}
"""How often each disturbance comes, of ten."""
SWITCH_S = 90.0
SHARES = (0.5, 0.99, 1.0)
COUNTED = ("acknowledged", "lost", "twice", "changes", "made", "requests")
STEPS = {
    "alert": "the alert is stored",
    "decided": "the controller has received it, read what it needs, and decides",
    "recorded": "the decision is stored",
    "route": "previous is ready, the route stored",
    "moved": "the gateway has the route: first request that goes back",
}


@dataclass
class Measured:
    """One rollback; `at_ms`: when each step had happened, in ms since the alert was to be published."""

    kind: str
    at_ms: dict[str, float]


@dataclass
class Run:
    """What was counted in one run: facts, changes of a record, events of rollbacks, requests and their errors."""

    seed: int
    acknowledged: int
    lost: int
    twice: int
    changes: int
    made: int
    events: dict[str, int]
    requests: int
    failed: dict[str, int]


@dataclass
class Results:
    """The rollbacks and runs so far; with a file, those of earlier runs too."""

    file: Path | None
    rollbacks: list[Measured] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            for line in self.file.read_text().splitlines():
                fields = json.loads(line)
                self.runs.append(Run(**fields)) if "seed" in fields else self.rollbacks.append(Measured(**fields))

    def add(self, result: Measured | Run) -> None:
        """Keep a result."""
        if isinstance(result, Run):
            self.runs.append(result)
        else:
            self.rollbacks.append(result)
        if self.file is not None:
            with self.file.open("a") as file:
                print(json.dumps(asdict(result)), file=file)


@dataclass
class Bench:
    """The parts, the load, and what was measured."""

    cluster: Cluster
    parts: Parts
    load: Steady
    near: Member | None = None

    async def disturb(self, kind: str) -> None:
        """Disturb the server that leads the routes."""
        if kind == "step down":
            await self.cluster.step_down(STREAM)
        elif kind == "kill -9":
            self.near = await self.cluster.kill_leader(STREAM)
        elif kind == "cut off":
            self.near = await self.cluster.leader(STREAM)
            self.cluster.cut_off(self.near)

    async def restore(self, kind: str) -> None:
        """Bring back what was killed or cut off, and wait until every copy is up to date."""
        if kind == "kill -9" and self.near is not None:
            await self.cluster.restart(self.near)
        elif kind == "cut off" and self.near is not None:
            self.cluster.rejoin(self.near)
        await self.cluster.settled()

    async def roll_back(self, kind: str) -> Measured:
        """Roll back, and return when each step had happened."""
        await put_route(self.parts, self.load, 2, 1)
        event = event_of(alert())
        await self.disturb(kind)
        asked_s = time.time()
        publishing = asyncio.create_task(_publish(self.parts, event))
        async with asyncio.timeout(SWITCH_S):
            await answered_by(self.load, BEHIND)
        await publishing
        await self.restore(kind)
        return Measured(kind, await self._steps(asked_s))

    async def _steps(self, asked_s: float) -> dict[str, float]:
        """Return when each step of the last rollback had happened, in ms since a time."""
        js, started = self.parts.js, nats_subject(f.RollbackStarted.TYPE, MODEL, "*")
        alert_stored = await js.get_last_msg(EVENTS, nats_subject(f.AlertRaised.TYPE, MODEL, "*"))
        route = await js.get_last_msg(STREAM, f"$KV.routes.{MODEL}")
        await until(functools.partial(self._has_started, started, asked_s), SWITCH_S)
        event = Event[f.RollbackStarted].model_validate_json((await js.get_last_msg(EVENTS, started)).data or b"")
        decided = event.data.timeline.decided_at
        assert decided is not None
        since = [request for request in self.load.sent if request.at_s >= asked_s and request.version]
        last_s = max((request.at_s for request in since if request.version == FAILED), default=asked_s)
        at_s = {
            "alert": _stored_s(alert_stored),
            "decided": decided.timestamp(),
            "recorded": await self._recorded_s(decided.timestamp()),
            "route": _stored_s(route),
            "moved": min(r.at_s for r in since if r.at_s > last_s and r.version == BEHIND),
        }
        return {step: (at - asked_s) * 1000 for step, at in at_s.items()}

    async def _has_started(self, subject: str, asked_s: float) -> bool:
        with contextlib.suppress(NotFoundError):
            return _stored_s(await self.parts.js.get_last_msg(EVENTS, subject)) >= asked_s
        return False

    async def _recorded_s(self, decided_s: float) -> float:
        """Return when the record was first stored after a decision."""
        bucket, subject, sequence, since_s = "KV_rollbacks", f"$KV.rollbacks.production.{MODEL}", 0, math.inf
        with contextlib.suppress(NotFoundError):
            while since_s == math.inf:
                message = await self.parts.js.get_msg(bucket, sequence + 1, subject=subject, next=True)
                sequence = message.seq or sequence + 1
                since_s = _stored_s(message) if _stored_s(message) >= decided_s else math.inf
        return since_s


def _stored_s(message: Any) -> float:
    assert message.time is not None
    return float(message.time.timestamp())


async def _publish(parts: Parts, event: object) -> None:
    while True:
        with contextlib.suppress(Transient):
            await publish_event(parts.js, event)  # type: ignore[arg-type]  # an event of the alert
            return


@contextlib.asynccontextmanager
async def cluster_parts() -> AsyncGenerator[tuple[Cluster, Parts], None]:
    """Start three servers and the parts that use them."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(running_cluster(folder, synced=True))
        client = await cluster.connect()
        js = await provisioned(client)
        triton = stack.enter_context(running(TritonServer(folder)))
        targets = {version: load_toy(triton, MODEL, version) for version in (1, 2)}
        gateway = stack.enter_context(running(Gateway(folder, connection(cluster, None, folder))))
        settings = connection(cluster, None, folder / "controller")
        variables = gateway.rehearsal_variables
        stack.enter_context(running_service("services.rollback_controller.main", settings, **variables))
        try:
            js = PatientJetStream(client, timeout=10)
            yield cluster, Parts(folder, cluster.members[0], triton, gateway, js, targets)
        finally:
            await client.close()


def show(results: Results) -> None:
    """Print the tables of switches and of steps, and what was counted."""
    rows, steps = [], []
    for kind, limit in LIMITS_MS.items():
        of_kind = [each for each in results.rollbacks if each.kind == kind]
        columns = [[each.at_ms[step] for each in of_kind] for step in ("route", "moved")]
        figures = [f"{quantile(column, share):,.0f}" if column else "" for column in columns for share in SHARES]
        rows.append([kind, str(len(of_kind)), *figures, f"{limit:,.0f}" if limit is not None else "none"])
    head = [f"{what}: p50 ms | p99 | max" for what in ("route stored", "all traffic moved")]
    show_table(("leader of routes", "rollbacks", *head, "limit of p99"), rows)
    undisturbed, before = [each.at_ms for each in results.rollbacks if each.kind == "none"], 0
    for number, (step, what) in enumerate(STEPS.items()):
        previous = [*STEPS][number - 1] if number else None
        spans = [at_ms[step] - (at_ms[previous] if previous else before) for at_ms in undisturbed]
        steps.append([what, *(f"{quantile(spans, share):.1f}" for share in SHARES if spans)])
    print("\nSteps of undisturbed rollbacks, ms each:\n")
    show_table(("step", "p50", "p99", "max"), steps)
    print()
    show_counts(results.runs)


def show_counts(runs: list[Run]) -> None:
    """Print what was counted in all runs."""
    total = {name: sum(getattr(run, name) for run in runs) for name in COUNTED}
    print(
        f"{total['acknowledged']:,} facts acknowledged: {total['lost']} lost, {total['twice']} stored twice.\n"
        f"{total['changes']:,} changes of a record: {total['made']:,} made."
    )
    events: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for run in runs:
        events.update(run.events)
        failed.update(run.failed)
    for kind, count in events.items():
        print(f"{count:>5} {kind}")
    print(f"{sum(failed.values())} of {total['requests']:,} requests failed.")
    for reason, count in failed.most_common(8):
        print(f"{count:>5} {reason}")


async def count_events(parts: Parts) -> dict[str, int]:
    """Return how many facts of each kind of a rollback the log has."""
    kinds = (f.RollbackStarted, f.RollbackCompleted, f.RollbackFailed, f.DeploymentChanged)
    return {kind.TYPE: len(await stored_facts(parts.js, kind, MODEL)) for kind in kinds}


async def measure(results: Results, rollbacks: int, minutes: float, rate_rps: float, seed: int) -> None:
    """Roll back until there are so many results, or for so long, and add what was measured and counted."""
    draw = random.Random(seed)
    async with cluster_parts() as (cluster, parts):
        await open_releases(parts)
        published = [Published(parts.js, every_s=0.02)]
        near = await cluster.members[0].connect(max_reconnect_attempts=-1, error_cb=ignore)
        published.append(Published(PatientJetStream(near, timeout=10), every_s=0.02))
        counted = Counted(parts.js, every_s=0.05)
        async with steady(parts.gateway, rate_rps) as load, writing(*published, counted):
            bench, ends_s, number = Bench(cluster, parts, load), time.monotonic() + minutes * 60, 0
            while len(results.rollbacks) < rollbacks and time.monotonic() < ends_s:
                (kind,) = draw.choices(list(DRAWN), list(DRAWN.values()))
                results.add(await bench.roll_back(kind))
                number += 1
                moved_ms = results.rollbacks[-1].at_ms["moved"]
                print(f"{len(results.rollbacks):>4} {kind:<10} {moved_ms:>9,.0f} ms", flush=True)
                await until(functools.partial(_have_ended, parts, number), SWITCH_S)
        written, made = await audit(parts.js, *published), await counted.stored()
        failed = Counter(request.failed for request in load.sent if request.failed)
        run = Run(seed, written.acknowledged, len(written.lost), len(written.twice), counted.changes, made,
                  await count_events(parts), len(load.sent), dict(failed))  # fmt: skip
        results.add(run)
        await near.close()


async def _have_ended(parts: Parts, rollbacks: int) -> bool:
    subject = nats_subject(f.RollbackCompleted.TYPE, MODEL, "*")
    state = (await parts.js.stream_info(EVENTS, subjects_filter=subject)).state
    return sum((state.subjects or {}).values()) >= rollbacks


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollbacks", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no rollback after so long")
    parser.add_argument("--rate", type=float, default=RATE_RPS)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--results", type=Path, help="a file that holds the results of all its runs")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.rollbacks} rollbacks at {given.rate:g} requests a second\n", flush=True)
    results = Results(given.results)
    asyncio.run(measure(results, given.rollbacks, given.minutes, given.rate, given.seed))
    print()
    show(results)


if __name__ == "__main__":
    main()
