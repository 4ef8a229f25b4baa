"""What a large installation needs, from what single operations cost here, and what gives way first.

Measured on real parts: facts and compare-and-set on a NATS server that writes every message to disk before it
acknowledges it, as the stack's does; telemetry, which stays in memory, and a monitor process that reads it; the gateway
before Triton with the toy engine, with the routes of as many models as the fleet has; small objects in the S3 server.
Counted by a simulation: into how many batches the gateways put the telemetry of a fleet whose models are asked
unevenly. Computed: what the fleet needs of each, as a multiple of what one process, or one server, does here.

Each message has one copy; with three copies three servers write it.
Run: python -m benchmarks.bench_scale [--models 1000] [--rps 10000]
"""

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from nats.js import JetStreamContext

from benchmarks.http_load import build_request, connect
from benchmarks.parts import MODEL, Parts, quantile, show_table, toy_parts, until
from contracts import facts as f
from contracts.envelope import Event, plain
from contracts.policy import Trigger
from contracts.routes import Route
from contracts.services import EVENTS, TELEMETRY
from contracts.vocabulary import canonical_json
from services.monitor.domain.record import MonitorState
from shared.messaging.bus import publish_event
from shared.messaging.provision import provision
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.progress import with_progress
from testbed.servers import NatsServer, S3Server, connection, running
from testbed.services import running_service
from testbed.story import Story

TRIGGERS = (
    Trigger(name="slow", metric="ttft_ms", threshold=800.0, allowed_ratio=0.05),
    Trigger(name="errors", metric="error_ratio", threshold=0.02),
)
TIMED_S = 5.0
"""How long one operation is repeated."""
WATCHED = 200
"""Models of the monitor that is measured."""
SMALL, LARGE = 800, 100
"""Batches of one record, and of a hundred."""
TELEMETRY_INTERVAL_S, WINDOW_S = 0.25, 60.0
"""Defaults of the gateway and the monitor."""
SLOWER_S = 2.0
"""What `GATEWAY_TELEMETRY_INTERVAL_S` could be in a large fleet."""
LEASE_S, RELEASE_WRITES = 1.0, 100
"""Seconds between two renewals of a lease or share, and about how many records a release writes."""
WEIGHTS_BYTES, STORED_RATIO = 16e9, 2.5
"""Bytes of 8 billion parameters in 16 bits; how often a release of all variants stores them (docs/guides/sizing.md)."""
BUSY = 0.6
"""Share of a core that a process may use."""
YEAR_S = 365.25 * 24 * 3600.0
WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Fleet:
    """An installation.

    Attributes:
        models: Models that are served; the n-th is asked in proportion to 1/n.
        engines: Tritons.
        rps: Requests per second, over all models.
        years: How long the log is kept.
        releases_per_week: Of each model.
    """

    models: int = 1_000
    engines: int = 100
    rps: float = 10_000.0
    years: float = 5.0
    releases_per_week: float = 1.0


@dataclass(frozen=True)
class Costs:
    """What one process or server does here in a second, unless the name has another unit."""

    facts: float
    telemetry: float
    release_facts: int
    release_bytes: float
    window_bytes: float
    cas: float
    cas_p99_ms: float
    small_batches: float
    large_records: float
    record_bytes: float
    gateway_ms: float
    routes_s: float
    routes_mb: float
    route_p99_ms: float
    puts: float


async def rate_of(act: Callable[[int], Awaitable[object]], *, at_once: int) -> tuple[float, list[float]]:
    """Repeat an action for some seconds; return how often it ended per second, and how long each took, in ms."""
    took_ms: list[float] = []
    ends, numbers = time.monotonic() + TIMED_S, iter(range(10**9))

    async def repeat() -> None:
        while time.monotonic() < ends:
            began = time.perf_counter()
            await act(next(numbers))
            took_ms.append((time.perf_counter() - began) * 1000)

    began = time.monotonic()
    await asyncio.gather(*(repeat() for _ in range(at_once)))
    return len(took_ms) / (time.monotonic() - began), took_ms


async def bytes_of(js: JetStreamContext, stream: str) -> tuple[int, int]:
    """Return messages and bytes of a stream."""
    state = (await js.stream_info(stream)).state
    return state.messages, state.bytes


def release_events(model: str) -> list[dict]:
    """Return the facts of one release with a canary, as they travel."""
    return [plain(event) for event in with_progress(Story(datetime.now(UTC)).release(model, 1, 1))]


async def measure_bus(js: JetStreamContext) -> dict[str, float]:
    """Measure facts, their size, and compare-and-set."""
    facts = release_events("toy")
    window = k.event(f.WindowSummarised)
    for fact in facts:
        await js.publish(f"{fact['type']}.toy.bench", canonical_json(fact))
    messages, release_bytes = await bytes_of(js, EVENTS)
    for number in range(100):
        await js.publish(f"{window.type}.toy.bench-{number}", canonical_json(plain(window)))
    _, with_windows = await bytes_of(js, EVENTS)
    body = canonical_json(facts[0])
    rate, _ = await rate_of(lambda number: js.publish(f"{facts[0]['type']}.toy-{number}.bench", body), at_once=64)
    batch = event_of(batch_of("toy", 2), "toy")
    sent = canonical_json(plain(batch))
    telemetry, _ = await rate_of(lambda number: js.publish(f"{batch.type}.toy-{number}.bench", sent), at_once=64)
    bucket = Bucket(js, "routes", Route)
    routes = [k.route(model=f"cas-{number}", history=(), quarantined=()) for number in range(64)]
    revisions = [await bucket.create(route.model, route) for route in routes]

    async def swap(number: int) -> None:
        place = number % len(routes)
        route = routes[place] = routes[place].model_copy(update={"epoch": routes[place].epoch + 1})
        revisions[place] = await bucket.update(route.model, route, revisions[place])

    cas, _ = await rate_of(swap, at_once=32)
    _, alone_ms = await rate_of(swap, at_once=1)
    return {
        "facts": rate,
        "telemetry": telemetry,
        "release_facts": messages,
        "release_bytes": release_bytes,
        "window_bytes": (with_windows - release_bytes) / 100,
        "cas": cas,
        "cas_p99_ms": quantile(alone_ms, 0.99),
    }


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
        policy = k.policy(triggers=TRIGGERS)
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


def batch_of(model: str, records: int) -> f.InferenceBatch:
    """Return a batch of healthy records that end now."""
    now = datetime.now(UTC)
    target = k.target(2, "bf16", model)
    return f.InferenceBatch(
        gateway="gateway-1",
        records=tuple(
            k.inference(request_id=f"{model}-{time.time_ns()}-{number}", target=target, scheduled_at=now, sent_at=now)
            for number in range(records)
        ),
    )


async def drained(js: JetStreamContext) -> bool:
    """Return whether the monitor has acknowledged all telemetry."""
    infos = [info for info in await js.consumers_info(TELEMETRY) if info.name.startswith("monitor__")]
    return bool(infos) and not any(info.num_pending or info.num_ack_pending for info in infos)


async def measure_monitor(folder: Path) -> dict[str, float]:
    """Measure how fast one monitor reads small and large batches, and the bytes of a record."""
    with ExitStack() as stack:
        bus, store = stack.enter_context(running(NatsServer(folder))), stack.enter_context(running(S3Server(folder)))
        client = await bus.connect()
        js = client.jetstream(timeout=30)
        await provision(js)
        stack.enter_context(running_service("services.monitor.main", connection(bus, store, folder / "monitor")))
        models = [f"m-{number}" for number in range(WATCHED)]
        await start_watching(js, models)
        figures = {}
        for name, records, count in (("small_batches", 1, SMALL), ("large_records", 100, LARGE)):
            before = (await bytes_of(js, TELEMETRY))[1]
            asked = [models[number % WATCHED] for number in range(count)]
            batches = [event_of(batch_of(model, records), model) for model in asked]
            began = time.monotonic()
            for start in range(0, count, 100):
                await asyncio.gather(*(publish_event(js, batch) for batch in batches[start : start + 100]))
            await until(lambda: drained(js), timeout_s=300)
            took = time.monotonic() - began
            figures[name] = count * (1 if records == 1 else records) / took
            figures["record_bytes"] = ((await bytes_of(js, TELEMETRY))[1] - before) / (count * records)
        await client.close()
    return figures


async def measure_gateway(parts: Parts, models: int) -> dict[str, float]:
    """Measure the processor time of a request, and what the routes of all models cost the gateway."""
    bucket = Bucket(parts.js, "routes", Route)
    await bucket.create(MODEL, Route(model=MODEL, epoch=1, active=parts.toy[1]))
    await until(lambda: asyncio.to_thread(lambda: parts.gateway.get(f"/v1/models/{MODEL}") is not None))
    process = psutil.Process(parts.gateway.process.pid)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 32, "stream": True}
    request = build_request("/v1/chat/completions", body, parts.gateway.headers)
    connections = [await connect(parts.gateway.port) for _ in range(32)]

    async def ask(number: int) -> None:
        reply = await connections[number % len(connections)].post(request)
        if reply.status != 200:
            raise RuntimeError(f"{reply.status} {reply.body[:200]!r}")

    async def rounds(count: int) -> None:
        for _ in range(count):
            await asyncio.gather(*(ask(number) for number in range(len(connections))))

    await rounds(3)
    before = sum(process.cpu_times()[:2])
    await rounds(20)
    gateway_ms = (sum(process.cpu_times()[:2]) - before) / (20 * len(connections)) * 1000
    memory = process.memory_full_info().uss
    for start in range(0, models, 100):
        names = [f"fleet-{number}" for number in range(start, min(models, start + 100))]
        routes = [Route(model=name, epoch=1, active=parts.toy[1]) for name in names]
        await asyncio.gather(*(bucket.create(route.model, route) for route in routes))
    last = f"/v1/models/fleet-{models - 1}"
    await until(lambda: asyncio.to_thread(lambda: parts.gateway.get(last) is not None))
    grown = (process.memory_full_info().uss - memory) / 1e6
    changes = [await seen_after_ms(parts, bucket, request) for _ in range(50)]
    for each in connections:
        each.close()
    began = time.monotonic()
    parts.gateway.kill()
    parts.gateway.start()
    await until(lambda: asyncio.to_thread(lambda: parts.gateway.get(last) is not None))
    return {
        "gateway_ms": gateway_ms,
        "routes_mb": grown,
        "route_p99_ms": quantile(changes, 0.99),
        "routes_s": time.monotonic() - began,
    }


async def seen_after_ms(parts: Parts, bucket: Bucket[Route], request: bytes) -> float:
    """Switch the model to its other version; return after how long an answer is of that one, in ms."""
    entry = await bucket.get(MODEL)
    assert entry is not None
    other = parts.toy[2 if entry.value.active.target.version == 1 else 1]
    route = entry.value.model_copy(update={"epoch": entry.value.epoch + 1, "active": other})
    connection_ = await connect(parts.gateway.port)
    short = request.replace(b'"max_tokens": 32', b'"max_tokens": 1 ')
    began = time.perf_counter()
    await bucket.update(MODEL, route, entry.revision)
    expected = f"v{other.target.version}".encode()
    while expected not in (await connection_.post(short)).body:
        pass
    took = (time.perf_counter() - began) * 1000
    connection_.close()
    return took


def measure_store(folder: Path) -> float:
    """Return how many objects of 2 kB one client puts in a second."""
    with running(S3Server(folder)) as server:
        store, count, began = Store(connection(None, server, folder)), 0, time.monotonic()
        while time.monotonic() - began < TIMED_S:
            store.create(f"bench/{count}", random.Random(count).randbytes(2_000))
            count += 1
        return count / (time.monotonic() - began)


def batches_per_s(fleet: Fleet, gateways: int, interval_s: float = TELEMETRY_INTERVAL_S) -> float:
    """Return into how many batches so many gateways put the fleet's records in a second: one a model and interval."""
    draw = random.Random(0)
    weights = [1.0 / (1 + number) for number in range(fleet.models)]
    each = round(fleet.rps * interval_s / gateways)
    drawn = [len(set(draw.choices(range(fleet.models), weights, k=each))) for _ in range(200)]
    return sum(drawn) / len(drawn) * gateways / interval_s


def needs(fleet: Fleet, costs: Costs) -> Iterator[list[str]]:
    """Yield what the fleet needs of each part, what one does here, and how many that makes."""
    gateway = 1000 * BUSY / costs.gateway_ms
    gateways = math.ceil(fleet.rps / gateway)
    releases = fleet.models * fleet.releases_per_week / WEEK_S
    windows = fleet.models / WINDOW_S
    facts = releases * costs.release_facts + windows
    batches, fewer = (batches_per_s(fleet, gateways, interval_s) for interval_s in (TELEMETRY_INTERVAL_S, SLOWER_S))
    writes = fleet.engines / LEASE_S + gateways / LEASE_S + releases * RELEASE_WRITES
    rows = (
        (f"gateway, at {BUSY:.0%} of a core", fleet.rps, gateway, "requests/s"),
        ("monitor: batches of telemetry, simulated", batches, costs.small_batches, "batches/s"),
        (f"the same, published every {SLOWER_S:g} s", fewer, costs.small_batches, "batches/s"),
        ("monitor: were all batches full", fleet.rps, costs.large_records, "records/s"),
        ("bus: a message for each batch, in memory", batches, costs.telemetry, "messages/s"),
        ("bus: facts of releases and windows", facts, costs.facts, "messages/s"),
        ("bus: leases, shares and releases", writes, costs.cas, "compare-and-set/s"),
        ("store: signed statements of releases", releases * RELEASE_WRITES, costs.puts, "objects/s"),
    )
    for what, need, capacity, unit in rows:
        yield [what, f"{need:,.2f} {unit}", f"{capacity:,.0f}", f"{need / capacity:,.2f}"]
    size = (releases * costs.release_bytes + windows * costs.window_bytes) * fleet.years * YEAR_S
    yield ["log: all facts", f"{facts * fleet.years * YEAR_S / 1e6:,.0f} million, {size / 1e12:,.1f} TB", "", ""]
    yield ["bus: bytes of telemetry", f"{fleet.rps * costs.record_bytes / 1e6:,.1f} MB/s", "", ""]
    versions = releases * fleet.years * YEAR_S * WEIGHTS_BYTES * STORED_RATIO
    yield ["store: all versions, of 8 billion parameters each", f"{versions / 1e15:,.1f} PB", "", ""]


async def measure(fleet: Fleet) -> Costs:
    """Measure everything."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bus").mkdir()
        server = NatsServer(folder / "bus")
        config = server.folder / "nats.conf"
        config.write_text(config.read_text().replace("jetstream { ", "jetstream { sync_interval: always, "))
        with running(server):
            client = await server.connect()
            js = client.jetstream(timeout=30)
            await provision(js)
            figures |= await measure_bus(js)
            await client.close()
        print(json.dumps(figures), file=sys.stderr, flush=True)
        figures |= await measure_monitor(folder / "monitor-parts")
        print(json.dumps(figures), file=sys.stderr, flush=True)
        figures["puts"] = await asyncio.to_thread(measure_store, folder / "store")
    async with toy_parts(token_delay_ms="20") as parts:
        figures |= await measure_gateway(parts, fleet.models)
    return Costs(**figures)  # type: ignore[arg-type]  # counts are whole numbers


def main() -> None:
    """Print what was measured, and what the fleet needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=Fleet.models)
    parser.add_argument("--rps", type=float, default=Fleet.rps)
    given = parser.parse_args()
    fleet = Fleet(models=given.models, rps=given.rps)
    costs = asyncio.run(measure(fleet))
    show_table(("operation", "here"), [[name, f"{value:,.2f}"] for name, value in vars(costs).items()])
    print()
    show_table(("what", "the fleet needs", "one does here", "of them"), list(needs(fleet, costs)))


if __name__ == "__main__":
    main()
