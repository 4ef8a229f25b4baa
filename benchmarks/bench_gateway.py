"""What a proxy of the OpenAI API costs: the gateway beside LiteLLM's proxy and a compiled one, in one run.

All stand before the toy engine, which generates a token every 50 ms: the gateway before Triton with the toy engine in
it, the others before the same answers over HTTP (`stand_in.py`). Chats of 32 tokens are streamed. Each round asks every
proxy, and both engines directly, in turn, so that other load on the machine meets all of them.

- processor: user and system time of the proxy's processes (its children included, no engine, no client) per request of
  32 tokens, at 32 streams in flight that start at equal distances.
- added TTFT: time to the first text minus that of its engine asked directly, at one stream and at these 32.
- requests/s: 64 callers, eight tokens each. Client, proxy and engine share the machine, so this is no limit of a proxy.

The gateway does what it does in production (telemetry to a real NATS server, features of texts); LiteLLM has its
defaults; Envoy forwards bytes by path and does nothing else.
Run: python benchmarks/bench_gateway.py [--rounds 5] [--only gateway …]
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.http_load import Connection, Part, build_request, connect, first_text_s
from benchmarks.parts import MODEL, quantile, show_table
from benchmarks.peers import PATH, PEERS, NotAvailable, StandIn
from contracts.routes import Route, ServedTarget
from services.gateway.adapters.triton import TritonEngine
from shared.messaging.provision import provision
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest
from shared.storage.kv import Bucket
from testbed.gateway import Gateway, load_toy
from testbed.servers import NatsServer, connection, running, wait_until
from testbed.triton import TritonServer

TOKENS, TOKEN_DELAY_MS, STREAMS = 32, 50, 32
SINGLE_TOKENS, SINGLES = 2, 20
STAGGERED = 3 * STREAMS
CALLERS, SHORT_TOKENS, CLOSED_LOOP_S = 64, 8, 4.0
GATEWAY, HTTP_ENGINE, TRITON = "Slipway gateway", "toy engine over HTTP", "toy engine in Triton, over gRPC"

Ask = Callable[[int], Awaitable[float]]
"""Requests a chat of so many tokens, and returns the time to its first text in milliseconds."""


@dataclass
class Figures:
    """What was measured of one proxy or engine."""

    single_ms: list[float] = field(default_factory=list)
    staggered_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)


@dataclass
class Contestant:
    """A proxy, or an engine that is asked directly (`pid` and `engine` are None)."""

    ask: Ask
    pid: int | None = None
    engine: str | None = None
    figures: Figures = field(default_factory=Figures)

    def processor_s(self) -> float:
        """Return the processor time of its living processes so far, in seconds."""
        if self.pid is None:
            return 0.0
        root = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        return sum(time_.user + time_.system for time_ in times)


def chat(tokens: int) -> dict:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens, "stream": True}


def check(parts: list[Part], tokens: int) -> float | None:
    """Return when the first text arrived; raise RuntimeError unless all tokens came."""
    body = b"".join(data for _, data in parts)
    words = "".join(
        choice["delta"].get("content") or ""
        for line in body.split(b"\n")
        if line.startswith(b"data: {")
        for choice in json.loads(line.removeprefix(b"data: "))["choices"]
    ).split()
    if len(words) != tokens:
        raise RuntimeError(f"{len(words)} of {tokens} tokens came: {body[:300]!r}")
    return first_text_s(parts)


def asks_http(port: int, headers: Mapping[str, str] | None = None) -> Ask:
    """Return what asks an HTTP server, on connections that are kept."""
    idle: list[Connection] = []
    requests = {tokens: build_request(PATH, chat(tokens), headers) for tokens in (TOKENS, SINGLE_TOKENS, SHORT_TOKENS)}

    async def ask(tokens: int) -> float:
        while idle and not idle[-1].is_open:
            idle.pop()
        caller = idle.pop() if idle else await connect(port)
        reply = await caller.post(requests[tokens])
        idle.append(caller)
        first_s = check(reply.parts, tokens)
        if reply.status != 200 or first_s is None:
            raise RuntimeError(f"status {reply.status}: {reply.body[:300]!r}")
        return (first_s - reply.sent_s) * 1000

    return ask


def asks_triton(engine: TritonEngine, served: ServedTarget) -> Ask:
    """Return what asks Triton as the gateway does."""

    async def ask(tokens: int) -> float:
        request = ApiRequest("POST", PATH, json.dumps(chat(tokens)).encode(), 60.0, "bench", MODEL)
        began_s = time.perf_counter()
        async with aclosing(engine.send(served.endpoints[0], served.target, request)) as pieces:
            parts = [(time.perf_counter(), piece.body) async for piece in pieces if piece.body]
        return ((check(parts, tokens) or began_s) - began_s) * 1000

    return ask


async def ask_staggered(ask: Ask, count: int) -> list[float]:
    """Start so many chats at equal distances, so that `STREAMS` are in flight; return their times to the first text."""
    distance_s = TOKENS * TOKEN_DELAY_MS / 1000 / STREAMS
    began = asyncio.get_running_loop().time()
    tasks = []
    for number in range(count):
        await asyncio.sleep(began + number * distance_s - asyncio.get_running_loop().time())
        tasks.append(asyncio.create_task(ask(TOKENS)))
    return list(await asyncio.gather(*tasks))


async def ask_for(ask: Ask, seconds: float) -> float:
    """Keep callers busy; return the requests per second."""
    end_s, counts = time.perf_counter() + seconds, itertools.count()

    async def call() -> None:
        while time.perf_counter() < end_s:
            await ask(SHORT_TOKENS)
            next(counts)

    began_s = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return next(counts) / (time.perf_counter() - began_s)


async def one_round(contestant: Contestant, into: Figures) -> None:
    for _ in range(SINGLES):
        into.single_ms.append(await contestant.ask(SINGLE_TOKENS))
    before_s = contestant.processor_s()
    firsts = await ask_staggered(contestant.ask, STAGGERED)
    into.processor_ms.append((contestant.processor_s() - before_s) / STAGGERED * 1000)
    into.staggered_ms += firsts[STREAMS:]  # only then so many are in flight


async def measure(contestants: dict[str, Contestant], rounds: int) -> None:
    """Measure all of them in turn; the first requests, which open connections, are not counted."""
    for contestant in contestants.values():
        await asyncio.gather(*(contestant.ask(SHORT_TOKENS) for _ in range(STREAMS)))
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            await one_round(contestants[name], contestants[name].figures)
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    for contestant in contestants.values():
        contestant.figures.per_second.append(await ask_for(contestant.ask, CLOSED_LOOP_S))


def show(contestants: dict[str, Contestant]) -> None:
    rows = []
    for name, contestant in contestants.items():
        figures, row = contestant.figures, [name]
        row.append(f"{median(figures.processor_ms):.2f}" if contestant.engine else "")
        for kind in ("single_ms", "staggered_ms"):
            own = getattr(figures, kind)
            row += [f"{quantile(own, 0.5):.1f}", f"{quantile(own, 0.99):.1f}"]
            if contestant.engine:
                direct = getattr(contestants[contestant.engine].figures, kind)
                row.append(f"{quantile(own, 0.5) - quantile(direct, 0.5):.1f}")
            else:
                row.append("")
        rows.append([*row, f"{median(figures.per_second):.0f}"])
    head = ["", "processor ms/request"]
    for streams in ("1 stream", f"{STREAMS} streams"):
        head += [f"TTFT p50, {streams}", "p99", "added p50"]
    show_table([*head, "requests/s"], rows)


@contextmanager
def contestants_of(folder: Path, only: list[str]) -> Iterator[tuple[dict[str, Contestant], Gateway, NatsServer, Route]]:
    """Start everything; a peer that cannot be installed is named and left out."""
    contestants: dict[str, Contestant] = {}
    with ExitStack() as stack:
        bus = stack.enter_context(running(NatsServer(folder)))
        triton = stack.enter_context(running(TritonServer(folder)))
        served = load_toy(triton, MODEL, 1, token_delay_ms=str(TOKEN_DELAY_MS))
        gateway = Gateway(folder, connection(bus, None, folder))
        contestants[TRITON] = Contestant(asks_triton(TritonEngine(Deadlines()), served))
        contestants[GATEWAY] = Contestant(asks_http(gateway.port, gateway.headers), engine=TRITON)
        peers = [peer for peer in PEERS if not only or peer.name in only]
        if peers:
            stand_in = stack.enter_context(running(StandIn(folder, TOKEN_DELAY_MS)))
            contestants[HTTP_ENGINE] = Contestant(asks_http(stand_in.port))
        for peer in peers:
            try:
                server = stack.enter_context(running(peer(folder, stand_in.port)))
            except (NotAvailable, AssertionError) as error:
                print(f"left out: {error}")
                continue
            contestants[peer.title] = Contestant(asks_http(server.port), server.process.pid, HTTP_ENGINE)
        yield contestants, gateway, bus, Route(model=MODEL, epoch=1, active=served)


async def route(bus: NatsServer, route_: Route) -> None:
    client = await bus.connect()
    js = client.jetstream(timeout=10)
    await provision(js)
    await Bucket(js, "routes", Route).create(MODEL, route_)
    await client.close()


def describe_machine() -> str:
    names = defaultdict(str, platform=platform.machine())
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            names["model"] = line.partition(":")[2].strip()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores, {names['model'] or names['platform']}, load before {load}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], choices=["gateway", *(peer.name for peer in PEERS)])
    given = parser.parse_args()
    print(describe_machine())
    with (
        tempfile.TemporaryDirectory() as folder,
        contestants_of(Path(folder), given.only) as (contestants, gateway, bus, to),
    ):
        asyncio.run(route(bus, to))
        with running(gateway):
            wait_until(lambda: gateway.get(f"/v1/models/{MODEL}"), what="the route")
            contestants[GATEWAY].pid = gateway.process.pid
            asyncio.run(measure(contestants, given.rounds))
    show(contestants)


if __name__ == "__main__":
    main()
