"""The overhead of Slipway: the gateway in front of Triton, and the events between the stages of a release.

**Gateway.** A toy engine generates a token every 5 ms. The same requests of the OpenAI API, streamed chats and
completions, go to Triton as the gateway sends them (one gRPC stream, the engine's own bytes), and to the gateway over
HTTP: in turn, in one process, 1 or 8 streams started at once. TTFT is the time from sending to the first non-empty
text; per token is (last - first) / (tokens - 1). The figure of a round is the median of its streams; overhead is the
difference to the direct round of the same kind next to it. The costs of the clients are included.

**Events.** Tiny models are released from `checkpoint.ready` to production on the whole stack (toy engine, one
precision, no canary, one rehearsed trigger). The clocks are NATS's timestamp of each stored event and the start of each
handler's span (`logs/spans.jsonl`), on one machine. The own work of a stage (merger, quantiser, server-manager,
benchmarker, rollback-controller) is the time from the start of handling its order to the stored event that answers it.
The rest between the stored `checkpoint.ready` and the stored `deployment.changed` is overhead: from each stored event
to the start of its handling, and all work of the registry, which only decides.
Run: python benchmarks/bench_overhead.py [--only gateway|events]
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from nats.js import JetStreamContext
from transformers.utils.logging import disable_progress_bar

from benchmarks.parts import MODEL, Parts, quantile, show_table, toy_parts, until
from clients.cli.connection import find_stack
from contracts.routes import Route
from contracts.services import EVENTS, INBOX, ORDERS
from services.gateway.adapters.triton import TritonEngine
from shared.messaging.credentials import connect
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest
from shared.storage.kv import Bucket
from testbed import stack
from testbed.models import tiny_base, tiny_lora

TOKENS = 32
TOKEN_DELAY_MS = 5
ROUNDS = {1: 60, 8: 40}
PROMPT = "What does the for statement do in Python?"
RELEASES = 3
LIMIT_MS = 1000

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

Pieces = AsyncGenerator[bytes, None]
Ask = Callable[[], Pieces]


@dataclass
class Figures:
    """One figure per round, in milliseconds."""

    ttft_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)


# -- the gateway ------------------------------------------------------------------------------------------------------


def body_of(kind: str) -> dict[str, object]:
    """Return what an OpenAI client sends."""
    asked = {"messages": [{"role": "user", "content": PROMPT}]} if kind == "chat" else {"prompt": PROMPT}
    return {"model": MODEL, "max_tokens": TOKENS, "temperature": 0.0, "stream": True, **asked}


async def direct(engine: TritonEngine, parts: Parts, kind: str) -> Pieces:
    """Yield the bytes of a stream from Triton, requested as the gateway does it."""
    served, body = parts.toy[1], json.dumps(body_of(kind)).encode()
    request = ApiRequest("POST", PATHS[kind], body, 60.0, "bench", MODEL)
    async with aclosing(engine.send(served.endpoints[0], served.target, request)) as stream:
        async for piece in stream:
            yield piece.body


async def through_gateway(http: httpx.AsyncClient, kind: str) -> Pieces:
    """Yield the bytes of a stream from the gateway, requested as an OpenAI client does it."""
    async with http.stream("POST", PATHS[kind], json=body_of(kind)) as answer:
        answer.raise_for_status()
        async for chunk in answer.aiter_bytes():
            yield chunk


def count_texts(chunk: bytes) -> int:
    """Return the events with text in bytes of a stream; the clients of both ways get whole events."""
    events = [json.loads(line[6:]) for line in chunk.split(b"\n") if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    return sum(bool(choice.get("text") or choice.get("delta", {}).get("content")) for choice in choices)


async def one_stream(ask: Ask) -> tuple[float, float]:
    """Return TTFT and time per token of one stream, ms."""
    began, first, last, count = time.perf_counter(), 0.0, 0.0, 0
    async with aclosing(ask()) as chunks:
        async for chunk in chunks:
            now = time.perf_counter()
            if texts := count_texts(chunk):
                first, last, count = first or now, now, count + texts
    if count != TOKENS:
        message = f"{count} of {TOKENS} tokens came"
        raise RuntimeError(message)
    return (first - began) * 1000, (last - first) * 1000 / (TOKENS - 1)


async def one_round(ask: Ask, streams: int, into: Figures) -> None:
    timings = await asyncio.gather(*(one_stream(ask) for _ in range(streams)))
    into.ttft_ms.append(median(ttft for ttft, _ in timings))
    into.token_ms.append(median(token for _, token in timings))


async def measure_gateway() -> dict[int, dict[str, Figures]]:
    engine, figures = TritonEngine(Deadlines()), {}
    async with toy_parts(token_delay_ms=str(TOKEN_DELAY_MS)) as parts:
        await Bucket(parts.js, "routes", Route).create(MODEL, Route(model=MODEL, epoch=1, active=parts.toy[1]))
        async with httpx.AsyncClient(
            base_url=parts.gateway.base_url, headers=parts.gateway.headers, timeout=30, trust_env=False
        ) as http:

            async def known() -> bool:
                return (await http.get(f"/v1/models/{MODEL}")).status_code == 200

            await until(known)
            asks: dict[str, Ask] = {f"direct, {kind}": partial(direct, engine, parts, kind) for kind in PATHS}
            asks |= {f"gateway, {kind}": partial(through_gateway, http, kind) for kind in PATHS}
            for streams, rounds in ROUNDS.items():
                await asyncio.gather(*(one_round(ask, streams, Figures()) for ask in asks.values()))
                figures[streams] = {name: Figures() for name in asks}
                for number in range(rounds):
                    names = list(asks) if number % 2 else list(reversed(asks))
                    for name in names:
                        await one_round(asks[name], streams, figures[streams][name])
        await engine.close()
    return figures


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({quantile(values, 0.1):.2f} to {quantile(values, 0.9):.2f})"


def show_gateway(figures: dict[int, dict[str, Figures]]) -> None:
    print("Gateway, ms: median of the rounds (10th to 90th percentile)\n")
    rows = []
    for streams, by_client in figures.items():
        for name, measured in by_client.items():
            way, kind = name.split(", ")
            over = [""] * 2
            if way == "gateway":
                base = by_client[f"direct, {kind}"]
                pairs = ((measured.ttft_ms, base.ttft_ms), (measured.token_ms, base.token_ms))
                over = [spread([a - b for a, b in zip(own, direct, strict=True)]) for own, direct in pairs]
            rows.append([str(streams), name, spread(measured.ttft_ms), over[0], spread(measured.token_ms), over[1]])
    show_table(("streams", "client", "TTFT", "overhead", "per token", "overhead"), rows)


# -- the events of a release ------------------------------------------------------------------------------------------

WORK = ("merger", "quantiser", "server-manager", "benchmarker", "rollback-controller")
STEPS = (
    ("checkpoint.ready", "registry"),
    ("release.opened", "merger"),
    ("checkpoint.merged", "registry"),
    ("variant.requested", "quantiser"),
    ("variant.quantised", "registry"),
    ("stage.requested 1", "server-manager"),
    ("variant.staged 1", "benchmarker"),
    ("variant.benchmarked", "registry"),
    ("stage.requested 2", "server-manager"),
    ("variant.staged 2", "rollback-controller"),
    ("rehearsal.completed", "registry"),
    ("traffic.requested", "server-manager"),
    ("deployment.changed", "registry"),
)
"""Each event, numbered where there are two, and the service that handles it; its answer is the next event."""
LAG_S = 0.001
"""Seconds by which timestamps of one clock may differ between two processes, by rounding."""
POLICY = {
    **stack.POLICY,
    "rehearsal": "required",
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.05, "min_requests": 10, "window_s": 5}],
}


async def stamps(js: JetStreamContext, model: str) -> dict[str, list[float]]:
    """Return when the events about a model were stored, Unix seconds, by name."""
    stored: dict[str, list[float]] = {}
    for stream in (INBOX, ORDERS, EVENTS):
        subject = f"slipway.*.*.v1.{model}.*"
        state = (await js.stream_info(stream, subjects_filter=subject)).state
        subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True)
        for _ in range(sum((state.subjects or {}).values())):
            message = await subscription.next_msg(timeout=10)
            stored.setdefault(fact_in(message.subject), []).append(message.metadata.timestamp.timestamp())
        await subscription.unsubscribe()
    return stored


def fact_in(subject: str) -> str:
    """Return the name of an event, such as `variant.staged`."""
    return ".".join(subject.split(".")[1:3])


def spans(state: Path, model: str) -> dict[tuple[str, str], list[float]]:
    """Return when services started to handle the events about a model, Unix seconds, by event and service."""
    starts: dict[tuple[str, str], list[float]] = {}
    for line in (state / "logs" / "spans.jsonl").read_text().splitlines():
        span = json.loads(line)
        subject = span["attributes"].get("messaging.destination_publish.name", "")
        if f".v1.{model}." in subject and span["name"].endswith(" process"):
            service = span["resource"]["attributes"]["service.name"].removeprefix("slipway-")
            began = datetime.fromisoformat(span["start_time"]).timestamp()
            starts.setdefault((fact_in(subject), service), []).append(began)
    return starts


@dataclass
class ReleaseTiming:
    """The times of one release, ms: waiting for each handler, decisions of the registry, work of the stages."""

    waits: dict[str, float]
    decides: dict[str, float]
    works: dict[str, float]
    whole: float

    @property
    def overhead(self) -> float:
        return self.whole - sum(self.works.values())


async def time_release(js: JetStreamContext, state: Path, model: str) -> ReleaseTiming:
    stored, timing = await stamps(js, model), ReleaseTiming({}, {}, {}, 0.0)

    def stored_s(fact: str) -> float:
        name, _, number = fact.partition(" ")
        return stored[name][int(number or 1) - 1]

    def handled_s(fact: str, service: str) -> float | None:
        starts = spans(state, model).get((fact.partition(" ")[0], service), [])
        return min((start for start in starts if start >= stored_s(fact) - LAG_S), default=None)

    async def written() -> bool:
        return all(handled_s(*step) is not None for step in STEPS[:-1])

    await until(written)
    for (fact, service), (answer, _) in pairwise(STEPS):
        key, began_s = f"{fact} -> {service} -> {answer}", handled_s(fact, service)
        timing.waits[key] = (began_s - stored_s(fact)) * 1000
        into = timing.works if service in WORK else timing.decides
        into[key] = (stored_s(answer) - began_s) * 1000
    timing.whole = (stored_s(STEPS[-1][0]) - stored_s(STEPS[0][0])) * 1000
    return timing


async def measure_events() -> list[ReleaseTiming]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        disable_progress_bar()
        base = tiny_base(folder / "tiny-llama")
        adapter = tiny_lora(base, folder / "one")
        names = [f"release-{number}" for number in range(RELEASES)]
        with stack.Stack(folder / "state") as up:
            up.ok("base", "import", str(base))
            for name in names:
                up.publish(name, adapter, "--variant", "bf16", policy=POLICY)
                up.promoted(name)
            client = await connect(find_stack(up.state).connection)
            timings = [await time_release(client.jetstream(timeout=10), up.state, name) for name in names]
            await client.close()
    return timings


def show_events(timings: list[ReleaseTiming]) -> None:
    print(f"\nEvents, {len(timings)} releases, ms: median (smallest to largest)\n")

    def cell(values: Sequence[float]) -> str:
        return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})" if values else ""

    columns = [[getattr(timing, name) for timing in timings] for name in ("waits", "decides", "works")]
    rows = [
        [key, *(cell([values[key] for values in column if key in values]) for column in columns)]
        for key in timings[0].waits
    ]
    totals = [[sum(values.values()) for values in column] for column in columns]
    rows.append(["sum", *(cell(total) for total in totals)])
    show_table(("event -> handled by -> answer", "until handled", "registry decides", "own work"), rows)
    print(
        f"\ncheckpoint.ready to production: {cell([timing.whole for timing in timings])} ms, "
        f"of that overhead: {cell([timing.overhead for timing in timings])} ms; limit {LIMIT_MS} ms"
    )


def main() -> None:
    """Print both tables, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["gateway", "events"])
    only = parser.parse_args().only
    if only != "events":
        show_gateway(asyncio.run(measure_gateway()))
    if only != "gateway":
        show_events(asyncio.run(measure_events()))


if __name__ == "__main__":
    main()
