"""Rollbacks on three NATS servers under load, while the leader of the routes steps down, is killed or cut off.

Three NATS servers (every write synced to disk), Triton with two toy targets, a gateway and the rollback-controller run
in their own processes, under an open-loop load; two clients publish facts, and one changes a record, without a pause.
Before each rollback a disturbance is drawn: none, the leader of `routes` steps down, dies by kill -9, or is cut off
from the other servers. The alert is published right after it. The switch is the time from the moment at which the alert
was to be published until the first request was sent from which on the version behind answered all. What is killed or
cut off comes back after the rollback. At the end facts and records are counted. Run:
python -m benchmarks.bench_cluster [--rollbacks 200] [--minutes M] [--rate 100] [--seed N]
"""

import argparse
import asyncio
import contextlib
import functools
import math
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_rollback import BACK as BEHIND
from benchmarks.bench_rollback import FAILED, MODEL, SETTINGS, alert, answered_by, event_of, open_releases, put_route
from benchmarks.parts import Parts, Steady, quantile, show_table, steady, until
from contracts import facts as f
from contracts.envelope import nats_subject
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

    async def roll_back(self, kind: str) -> tuple[float, float]:
        """Return how many ms after its alert a rollback's route was stored, and all traffic had moved."""
        await put_route(self.parts, self.load, 2, 1)
        event = event_of(alert())
        await self.disturb(kind)
        asked_s = time.time()
        publishing = asyncio.create_task(_publish(self.parts, event))
        async with asyncio.timeout(SWITCH_S):
            await answered_by(self.load, BEHIND)
        await publishing
        await self.restore(kind)
        message = await self.parts.js.get_last_msg(STREAM, f"$KV.routes.{MODEL}")
        assert message.time is not None
        since = [request for request in self.load.sent if request.at_s >= asked_s and request.version]
        last_s = max((request.at_s for request in since if request.version == FAILED), default=asked_s)
        moved_s = min(r.at_s for r in since if r.at_s > last_s and r.version == BEHIND)
        return (message.time.timestamp() - asked_s) * 1000, (moved_s - asked_s) * 1000


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
        variables = {**SETTINGS, **gateway.rehearsal_variables}
        stack.enter_context(running_service("services.rollback_controller.main", settings, **variables))
        try:
            js = PatientJetStream(client, timeout=10)
            yield cluster, Parts(folder, cluster.members[0], triton, gateway, js, targets)
        finally:
            await client.close()


def show(measured: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table of switches."""
    rows = []
    for kind, limit in LIMITS_MS.items():
        stored, moved = [stored for stored, _ in measured[kind]], [moved for _, moved in measured[kind]]
        figures = [
            f"{quantile(values, share):,.0f}" if values else ""
            for values in (stored, moved)
            for share in (0.5, 0.99, 1.0)
        ]
        rows.append([kind, str(len(moved)), *figures, f"{limit:,.0f}" if limit is not None else "none"])
    head = (
        "leader of routes",
        "rollbacks",
        "route stored: p50 ms",
        "p99",
        "max",
        "all traffic moved: p50 ms",
        "p99",
        "max",
    )
    show_table((*head, "limit of p99"), rows)


async def completed(parts: Parts) -> dict[str, int]:
    """Return how many facts of each kind of a rollback the log has."""
    kinds = (f.RollbackStarted, f.RollbackCompleted, f.RollbackFailed, f.DeploymentChanged)
    return {kind.TYPE: len(await stored_facts(parts.js, kind, MODEL)) for kind in kinds}


async def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollbacks", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no rollback after so long")
    parser.add_argument("--rate", type=float, default=RATE_RPS)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(
        f"seed {arguments.seed}, {arguments.rollbacks} rollbacks at {arguments.rate:g} requests a second\n", flush=True
    )
    draw, measured = random.Random(arguments.seed), defaultdict[str, list[tuple[float, float]]](list)
    async with cluster_parts() as (cluster, parts):
        await open_releases(parts)
        published = [Published(parts.js, every_s=0.02)]
        near = await cluster.members[0].connect(max_reconnect_attempts=-1, error_cb=ignore)
        published.append(Published(PatientJetStream(near, timeout=10), every_s=0.02))
        counted = Counted(parts.js, every_s=0.05)
        async with steady(parts.gateway, arguments.rate) as load, writing(*published, counted):
            bench, ends_s = Bench(cluster, parts, load), time.monotonic() + arguments.minutes * 60
            for number in range(arguments.rollbacks):
                if time.monotonic() > ends_s:
                    break
                (kind,) = draw.choices(list(DRAWN), list(DRAWN.values()))
                measured[kind].append(await bench.roll_back(kind))
                print(f"{number + 1:>4} {kind:<10} {measured[kind][-1][1]:>9,.0f} ms", flush=True)
                await until(functools.partial(_have_ended, parts, number + 1), SWITCH_S)
        written, changes = await audit(parts.js, *published), await counted.stored()
        facts = await completed(parts)
        await near.close()
    print()
    show(measured)
    print(
        f"\n{written.acknowledged:,} facts acknowledged: {len(written.lost)} lost, {len(written.twice)} stored twice."
        f"\n{counted.changes:,} changes of a record: {changes:,} made."
    )
    for kind, count in facts.items():
        print(f"{count:>5} {kind}")
    failed = [request.failed for request in load.sent if request.failed]
    print(f"{len(failed)} of {len(load.sent):,} requests failed.")


async def _have_ended(parts: Parts, rollbacks: int) -> bool:
    subject = nats_subject(f.RollbackCompleted.TYPE, MODEL, "*")
    state = (await parts.js.stream_info(EVENTS, subjects_filter=subject)).state
    return sum((state.subjects or {}).values()) >= rollbacks


if __name__ == "__main__":
    asyncio.run(main())
