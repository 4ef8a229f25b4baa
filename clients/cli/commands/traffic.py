"""`slipway traffic`: send chat requests at a steady rate to the gateway, and show versions and latencies."""

import asyncio
import math
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Any

import httpx
import typer

from clients.cli.connection import StackAddress, find_stack
from clients.cli.errors import CommandError, Exit
from clients.cli.gateway import chunk_in, client_options, describe_refusal, no_answer, text_in
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import show_json, show_line, show_table
from clients.cli.parsing import parse_duration

QUESTIONS = (
    "What can you help me with?",
    "Explain in one sentence what a list is.",
    "How do I reset my password?",
    "What is the difference between a cat and a dog?",
    "Write a short greeting.",
)
MOST_RPS = 100.0
AT_ONCE = 100
PRINT_EVERY_S = 10.0


@dataclass
class Seen:
    """Counts and latencies of the requests so far.

    Attributes:
        ttft_ms: Milliseconds from the planned start of each request to its first text, by release (`bot@v2`); answers
            without text are left out.
        drilled: Answers that a drill changed.
        failures: Requests without an answer, by reason.
    """

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    ttft_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    drilled: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Return the counts in one line."""
        by_release = ", ".join(f"{name} {count}" for name, count in sorted(self.answered.items()))
        return f"{self.sent} sent; answered: {by_release or 'none'}; failed: {self.failures.total()}"

    def as_data(self) -> dict[str, Any]:
        """Return a summary as JSON data."""
        answered = {
            name: {"requests": count, **{f"ttft_p{each}_ms": self.ttft(name, each) for each in (50, 99)}}
            for name, count in sorted(self.answered.items())
        }
        return {"sent": self.sent, "answered": answered, "drilled": self.drilled, "failures": dict(self.failures)}

    def ttft(self, release: str, percent: int) -> float | None:
        """Return a percentile of the milliseconds to the first text of a release; None if no answer of it had text."""
        return percentile(self.ttft_ms[release], percent)


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile by the nearest-rank method, rounded to one decimal; None if there are no values."""
    return round(sorted(values)[math.ceil(len(values) * percent / 100) - 1], 1) if values else None


def traffic(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, or MODEL@vN for one version of it.")],
    rate: Annotated[float, typer.Option(help=f"Requests per second, up to {MOST_RPS:g}.")] = 2.0,
    lasting: Annotated[
        str | None, typer.Option("--for", help="Duration, such as 30s or 5m (default: until Ctrl-C).")
    ] = None,
    after: Annotated[str | None, typer.Option(metavar="MODEL@vN", help="Begin once this version can be asked.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.", min=1)] = 8,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send chat requests to a model through the gateway, as its callers do, with the key of this command line.

    A slow answer does not delay the next request. The last lines are a summary: answers and the time to their first
    text by version, and failures. The exit code is 1 if nothing was answered.
    """
    if not 0.0 < rate <= MOST_RPS:
        raise CommandError(f"--rate {rate:g} is not valid: it must be above 0 and at most {MOST_RPS:g}", Exit.USAGE)
    span_s = None if lasting is None else parse_duration(lasting).total_seconds()
    seen = asyncio.run(_send(find_stack(state), Load(model, rate, span_s, max_tokens), after))
    _show(seen, as_json=as_json)
    if not seen.answered:
        raise CommandError(f"no request to {model} was answered")


@dataclass(frozen=True)
class Load:
    """Requests to a model: `rate` per second, for `span_s` seconds; until a signal comes if `span_s` is None."""

    model: str
    rate: float
    span_s: float | None
    max_tokens: int

    def body(self, number: int) -> dict[str, Any]:
        """Return the body of a request; each is another user's."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
            "user": f"user-{number}",
            "stream": True,
        }


async def _send(stack: StackAddress, load: Load, after: str | None) -> Seen:
    """Send requests until the end of the time or a signal, then wait for their answers."""
    stop, seen = asyncio.Event(), Seen()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(**client_options(stack), limits=limits) as client:
        await _await_name(client, stack, after or load.model, stop, wait=after is not None)
        printing = asyncio.create_task(_print_progress(seen))
        asked: set[asyncio.Task[None]] = set()
        started = monotonic()
        while not stop.is_set() and (load.span_s is None or seen.sent / load.rate < load.span_s):
            due = started + seen.sent / load.rate
            try:
                await asyncio.wait_for(stop.wait(), max(0.0, due - monotonic()))
            except TimeoutError:
                task = asyncio.create_task(_ask(client, load.body(seen.sent), due, seen))
                asked.add(task)
                task.add_done_callback(asked.discard)
                seen.sent += 1
        await asyncio.gather(*asked)
        printing.cancel()
    return seen


async def _await_name(
    client: httpx.AsyncClient, stack: StackAddress, name: str, stop: asyncio.Event, *, wait: bool
) -> None:
    """Return once the gateway has a model; without `wait`, raise CommandError if it lacks the model now."""
    while not stop.is_set():
        try:
            response = await client.get(f"/v1/models/{name}")
            if response.status_code == 200:
                return
            problem = CommandError(describe_refusal(response))
        except httpx.TransportError as error:
            problem = no_answer(stack, error)
        if not wait:
            raise problem
        await asyncio.sleep(1.0)


async def _ask(client: httpx.AsyncClient, body: Mapping[str, Any], due: float, seen: Seen) -> None:
    """Send a request and count its outcome; `due` is its planned start."""
    first: float | None = None
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await _require_answer(response)
            async for line in response.aiter_lines():
                chunk = chunk_in(line)
                if chunk is not None and text_in(chunk) and first is None:
                    first = monotonic()
            release = response.headers["x-slipway-release"]
    except (httpx.HTTPError, ValueError, KeyError, CommandError) as error:
        seen.failures[str(error) or type(error).__name__] += 1
        return
    seen.answered[release] += 1
    seen.drilled += "x-slipway-drill" in response.headers
    if first is not None:
        seen.ttft_ms[release].append(1000 * (first - due))


async def _require_answer(response: httpx.Response) -> None:
    if response.status_code != 200:
        await response.aread()
        raise CommandError(describe_refusal(response))


async def _print_progress(seen: Seen) -> None:
    while True:
        await asyncio.sleep(PRINT_EVERY_S)
        print(f"traffic: {seen.line()}", file=sys.stderr, flush=True)


def _show(seen: Seen, *, as_json: bool) -> None:
    if as_json:
        show_json(seen.as_data())
        return
    columns = ("version", "requests", "TTFT p50", "TTFT p99")
    rows = [
        (name, count, *(f"{seen.ttft(name, each):.0f} ms" if seen.ttft_ms[name] else "-" for each in (50, 99)))
        for name, count in sorted(seen.answered.items())
    ]
    show_table(columns, rows)
    for reason, count in seen.failures.most_common():
        show_line(f"{count} failed: {reason}")
    drilled = f", {seen.drilled} with the fault of a drill" if seen.drilled else ""
    show_line(f"{seen.sent} requests, {seen.answered.total()} answered{drilled}, {seen.failures.total()} failed")
