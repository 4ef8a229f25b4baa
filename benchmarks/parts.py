"""Shared by several benchmarks: real parts with toy models, a steady request load, quantiles and tables."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from nats.js import JetStreamContext

from contracts.routes import ServedTarget
from shared.messaging.provision import provision
from testbed.gateway import Gateway, load_toy
from testbed.openai_server import OpenAiServer
from testbed.servers import NatsServer, connection, running
from testbed.triton import TritonServer

MODEL = "toy"


@dataclass
class Parts:
    """NATS, Triton with toy targets 1 and 2, and a gateway, each in its own process."""

    folder: Path
    nats: NatsServer
    triton: TritonServer
    gateway: Gateway
    js: JetStreamContext
    toy: dict[int, ServedTarget]


@contextlib.asynccontextmanager
async def toy_parts(*, attached: bool = False, **toy: str) -> AsyncGenerator[Parts, None]:
    """Start the parts; `toy` are the parameters of the toy engine.

    With `attached`, each target is served by a server of the OpenAI API of its own, over HTTP.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bus = stack.enter_context(running(NatsServer(folder)))
        triton = stack.enter_context(running(TritonServer(folder)))
        client = await bus.connect()
        js = client.jetstream(timeout=10)
        await provision(js)
        targets = {version: load_toy(triton, MODEL, version, **toy) for version in (1, 2)}
        for version, served in targets.items() if attached else ():
            server = OpenAiServer(folder, f"attached-{version}", **{str(served.target): toy})
            url = stack.enter_context(running(server)).url
            targets[version] = served.model_copy(update={"endpoints": (url,)})
        gateway = stack.enter_context(running(Gateway(folder, connection(bus, None, folder))))
        try:
            yield Parts(folder, bus, triton, gateway, js, targets)
        finally:
            await client.close()


@dataclass
class SentRequest:
    """One request: when it was sent (Unix seconds), the version that answered, its latency; `failed` is the error."""

    at_s: float
    version: str = ""
    took_ms: float = 0.0
    failed: str = ""


@dataclass
class Steady:
    """An open-loop load: requests at a steady rate, sent whether or not earlier ones were answered."""

    http: httpx.AsyncClient
    rate_rps: float
    tokens: int = 2
    model: str = MODEL
    prompt: str = "Once upon a time"
    sent: list[SentRequest] = field(default_factory=list)

    async def run(self) -> None:
        """Send requests until cancelled."""
        running_: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        try:
            while True:
                due += 1.0 / self.rate_rps
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._send())
                running_.add(task)
                task.add_done_callback(running_.discard)
        finally:
            await asyncio.gather(*running_, return_exceptions=True)

    async def _send(self) -> None:
        request = SentRequest(time.time())
        began = time.perf_counter()
        self.sent.append(request)
        body = {"model": self.model, "prompt": self.prompt, "max_tokens": self.tokens}
        try:
            answer = await self.http.post("/v1/completions", json=body)
        except httpx.HTTPError as error:
            request.failed = repr(error)
            return
        request.took_ms = (time.perf_counter() - began) * 1000
        request.version = answer.headers.get("x-slipway-release", "")
        if answer.status_code != 200:
            request.failed = f"{answer.status_code} {answer.text[:80]}"


@contextlib.asynccontextmanager
async def steady(gateway: Gateway, rate_rps: float, model: str = MODEL, **load: str) -> AsyncGenerator[Steady, None]:
    """Send requests at a steady rate for as long as the context lasts; `load` are further fields of `Steady`."""
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    async with httpx.AsyncClient(
        base_url=gateway.base_url, headers=gateway.headers, timeout=30, trust_env=False, limits=limits
    ) as http:
        requests = Steady(http, rate_rps, model=model, **load)
        sending = asyncio.create_task(requests.run())
        try:
            yield requests
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Wait until a condition holds that another process brings about."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(0.05)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(len(ordered), max(1, rank)) - 1]


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|---|" + "---|" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
