"""What Slipway itself costs: the gateway before Triton, and the events between the stages of a release.

**Gateway.** A toy engine makes a token every 5 ms. The same streams are asked of Triton over gRPC as the services do
it, and of the gateway over HTTP as server-sent events, plain completions and chat (whose template runs in a child
process): in turn, in one process, 1 or 8 streams started at once. TTFT runs from sending to the first non-empty text;
per token is (last - first) / (tokens - 1). A round's figure is the median of its streams; overhead is the difference to
the direct round beside it. The costs of Python's HTTP and gRPC clients are in the figures.

**Events.** Tiny models walk from `checkpoint.ready` to production on the whole stack (toy engine, one precision, no
canary, one rehearsed trigger). The clocks are NATS's time stamp of each stored fact and the start of each handler's
span (`logs/spans.jsonl`), on one machine. The own work of a stage (merger, quantiser, server-manager, benchmarker,
rollback-controller) runs from the start of the handling of its order to the stored fact that answers it. All the rest
between the stored `checkpoint.ready` and the stored `deployment.changed` is overhead: from each stored fact to the
start of its handling, and all that the registry does, which only decides. Run: python benchmarks/bench_overhead.py
"""

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
import nats
from nats.js import JetStreamContext
from transformers.utils.logging import disable_progress_bar

from benchmarks.parts import MODEL, Parts, quantile, show_table, toy_parts, until
from clients.cli.connection import find_stack
from contracts.routes import Route
from contracts.services import EVENTS, INBOX, ORDERS
from shared.serving.inference import Channels, generate
from shared.storage.kv import Bucket
from tests.kit import stack
from tests.kit.models import tiny_base, tiny_lora

TOKENS = 32
TOKEN_DELAY_MS = 5
ROUNDS = {1: 60, 8: 40}
PROMPT = "What does the for statement do in Python?"
RELEASES = 3
LIMIT_MS = 1000

Texts = AsyncGenerator[str, None]
Ask = Callable[[], Texts]


@dataclass
class Figures:
    """One figure per round, in milliseconds."""

    ttft_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)


# -- the gateway ------------------------------------------------------------------------------------------------------


async def direct(channels: Channels, parts: Parts) -> Texts:
    """Ask Triton as the gateway does."""
    sampling = {"max_tokens": TOKENS, "temperature": 0.0}
    name = str(parts.toy[1].target)
    async with aclosing(generate(channels.get(parts.triton.endpoint), name, PROMPT, sampling)) as stream:
        async for delta in stream:
            yield delta.text


async def events(http: httpx.AsyncClient, path: str, body: dict[str, object]) -> Texts:
    """Ask the gateway as an OpenAI client does."""
    whole = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0.0, "stream": True, **body}
    async with http.stream("POST", path, json=whole) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                yield choice["text"] if "text" in choice else choice["delta"].get("content") or ""


async def one_stream(ask: Ask) -> tuple[float, float]:
    """Return TTFT and time per token of one stream, ms."""
    began, first, last, count = time.perf_counter(), 0.0, 0.0, 0
    async with aclosing(ask()) as texts:
        async for text in texts:
            if text:
                last = time.perf_counter()
                first = first or last
                count += 1
    if count != TOKENS:
        message = f"{count} of {TOKENS} tokens came"
        raise RuntimeError(message)
    return (first - began) * 1000, (last - first) * 1000 / (TOKENS - 1)


async def one_round(ask: Ask, streams: int, into: Figures) -> None:
    found = await asyncio.gather(*(one_stream(ask) for _ in range(streams)))
    into.ttft_ms.append(median(ttft for ttft, _ in found))
    into.token_ms.append(median(token for _, token in found))


async def measure_gateway() -> dict[int, dict[str, Figures]]:
    channels, found = Channels(), {}
    async with toy_parts(token_delay_ms=str(TOKEN_DELAY_MS)) as parts:
        await Bucket(parts.js, "routes", Route).create(MODEL, Route(model=MODEL, epoch=1, active=parts.toy[1]))
        async with httpx.AsyncClient(base_url=parts.gateway.base_url, timeout=30, trust_env=False) as http:

            async def known() -> bool:
                return (await http.get(f"/v1/models/{MODEL}")).status_code == 200

            await until(known)
            messages = [{"role": "user", "content": PROMPT}]
            asks: dict[str, Ask] = {
                "direct": partial(direct, channels, parts),
                "completions": partial(events, http, "/v1/completions", {"prompt": PROMPT}),
                "chat": partial(events, http, "/v1/chat/completions", {"messages": messages}),
            }
            for streams, rounds in ROUNDS.items():
                await asyncio.gather(*(one_round(ask, streams, Figures()) for ask in asks.values()))
                found[streams] = {name: Figures() for name in asks}
                for number in range(rounds):
                    names = list(asks) if number % 2 else list(reversed(asks))
                    for name in names:
                        await one_round(asks[name], streams, found[streams][name])
        await channels.close()
    return found


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({quantile(values, 0.1):.2f} to {quantile(values, 0.9):.2f})"


def show_gateway(found: dict[int, dict[str, Figures]]) -> None:
    print("Gateway, ms: median of the rounds (10th to 90th percentile)\n")
    rows = []
    for streams, by_way in found.items():
        base = by_way["direct"]
        for name, one in by_way.items():
            over = [""] * 2
            if one is not base:
                pairs = ((one.ttft_ms, base.ttft_ms), (one.token_ms, base.token_ms))
                over = [spread([a - b for a, b in zip(mine, theirs, strict=True)]) for mine, theirs in pairs]
            rows.append([str(streams), name, spread(one.ttft_ms), over[0], spread(one.token_ms), over[1]])
    show_table(("streams", "way", "TTFT", "overhead", "per token", "overhead"), rows)


# -- the events of a release ------------------------------------------------------------------------------------------

WORK = ("merger", "quantiser", "server-manager", "benchmarker", "rollback-controller")
ROAD = (
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
"""Each fact, numbered where there are two, and who handles it; what it answers with is the next one."""
LAG_S = 0.001
"""Stamps of one clock by two processes may differ by so much in their rounding."""
POLICY = {
    **stack.POLICY,
    "rehearsal": "required",
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.05, "min_requests": 10, "window_s": 5}],
}


async def stamps(js: JetStreamContext, model: str) -> dict[str, list[float]]:
    """Return when the facts about a model were stored, Unix seconds, by name."""
    found: dict[str, list[float]] = {}
    for stream in (INBOX, ORDERS, EVENTS):
        subject = f"slipway.*.*.v1.{model}"
        state = (await js.stream_info(stream, subjects_filter=subject)).state
        subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True)
        for _ in range(sum((state.subjects or {}).values())):
            message = await subscription.next_msg(timeout=10)
            found.setdefault(fact_in(message.subject), []).append(message.metadata.timestamp.timestamp())
        await subscription.unsubscribe()
    return found


def fact_in(subject: str) -> str:
    """Return the name of a fact, such as `variant.staged`."""
    return ".".join(subject.split(".")[1:3])


def spans(state: Path, model: str) -> dict[tuple[str, str], list[float]]:
    """Return when services began to handle the facts about a model, Unix seconds, by fact and service."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in (state / "logs" / "spans.jsonl").read_text().splitlines():
        span = json.loads(line)
        subject = span["attributes"].get("messaging.destination_publish.name", "")
        if subject.endswith(f".v1.{model}") and span["name"].endswith(" process"):
            service = span["resource"]["attributes"]["service.name"].removeprefix("slipway-")
            began = datetime.fromisoformat(span["start_time"]).timestamp()
            found.setdefault((fact_in(subject), service), []).append(began)
    return found


@dataclass
class Walked:
    """One release, ms: waiting for each handler, deciding by the registry, work by the stages."""

    waits: dict[str, float]
    decides: dict[str, float]
    works: dict[str, float]
    whole: float

    @property
    def overhead(self) -> float:
        return self.whole - sum(self.works.values())


async def walked(js: JetStreamContext, state: Path, model: str) -> Walked:
    stored, one = await stamps(js, model), Walked({}, {}, {}, 0.0)

    def stored_s(fact: str) -> float:
        name, _, number = fact.partition(" ")
        return stored[name][int(number or 1) - 1]

    def handled_s(fact: str, service: str) -> float | None:
        starts = spans(state, model).get((fact.partition(" ")[0], service), [])
        return min((start for start in starts if start >= stored_s(fact) - LAG_S), default=None)

    async def written() -> bool:
        return all(handled_s(*step) is not None for step in ROAD[:-1])

    await until(written)
    for (fact, service), (answer, _) in pairwise(ROAD):
        key, began_s = f"{fact} -> {service} -> {answer}", handled_s(fact, service)
        one.waits[key] = (began_s - stored_s(fact)) * 1000
        into = one.works if service in WORK else one.decides
        into[key] = (stored_s(answer) - began_s) * 1000
    one.whole = (stored_s(ROAD[-1][0]) - stored_s(ROAD[0][0])) * 1000
    return one


async def measure_events() -> list[Walked]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        disable_progress_bar()
        base = tiny_base(folder / "tiny-llama")
        adapter = tiny_lora(base, folder / "one")
        names = [f"walker-{number}" for number in range(RELEASES)]
        with stack.Stack(folder / "state") as up:
            up.ok("base", "import", str(base))
            for name in names:
                up.publish(name, adapter, "--variant", "bf16", policy=POLICY)
                up.promoted(name)
            client = await nats.connect(find_stack(up.state).connection.nats_url)
            found = [await walked(client.jetstream(timeout=10), up.state, name) for name in names]
            await client.close()
    return found


def show_events(found: list[Walked]) -> None:
    print(f"\nEvents, {len(found)} releases, ms: median (smallest to largest)\n")

    def cell(values: Sequence[float]) -> str:
        return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})" if values else ""

    columns = [[getattr(one, name) for one in found] for name in ("waits", "decides", "works")]
    rows = [[key, *(cell([one[key] for one in column if key in one]) for column in columns)] for key in found[0].waits]
    totals = [[sum(one.values()) for one in column] for column in columns]
    rows.append(["sum", *(cell(total) for total in totals)])
    show_table(("fact -> who handles it -> answer", "until handled", "registry decides", "own work"), rows)
    print(
        f"\ncheckpoint.ready to production: {cell([one.whole for one in found])} ms, "
        f"of that overhead: {cell([one.overhead for one in found])} ms; limit {LIMIT_MS} ms"
    )


def main() -> None:
    show_gateway(asyncio.run(measure_gateway()))
    show_events(asyncio.run(measure_events()))


if __name__ == "__main__":
    main()
