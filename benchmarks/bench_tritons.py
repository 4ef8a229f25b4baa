"""Time from a rollback's route until the first token, while the Triton of the failed version is dead.

NATS, two Tritons and a gateway run in their own processes. Each time, version 2 is active on the second Triton and
version 1, the previous one, on the first, which serves another model under an open-loop load. The second Triton is
killed with SIGKILL, the route of the rollback is written, and a request is sent at once and again after each error,
until version 1 has sent its first token. Run: python -m benchmarks.bench_tritons [ROUNDS]
"""

import asyncio
import contextlib
import sys
import time
from collections import Counter

import httpx

from benchmarks.parts import MODEL, Parts, Steady, quantile, show_table, steady, toy_parts, until
from contracts.routes import Route, ServedTarget
from decisions.routes.edits import Changed, roll_back
from shared.storage.kv import Bucket
from testbed.gateway import load_toy
from testbed.servers import running
from testbed.triton import TritonServer

OTHER = "other"
RATE_RPS = 20
ROUNDS = 20
LIMIT_MS = 100
MOST_S = 30.0


async def write_route(parts: Parts, route: Route) -> None:
    """Write the route of a model, whatever is there."""
    routes = Bucket(parts.js, "routes", Route)
    entry = await routes.get(route.model)
    changed = route.model_copy(update={"epoch": (entry.value.epoch if entry else 0) + 1})
    await (routes.update(route.model, changed, entry.revision) if entry else routes.create(route.model, changed))


async def first_token(parts: Parts, http: httpx.AsyncClient, version: int) -> tuple[float, int]:
    """Return the milliseconds until a version sends its first token, and the requests that failed before."""
    began, failed = time.perf_counter(), 0
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 2, "stream": True}
    while time.perf_counter() - began < MOST_S:
        async with http.stream("POST", f"{parts.gateway.base_url}/v1/completions", json=body) as answer:
            if answer.status_code == 200 and answer.headers["x-slipway-release"] == f"{MODEL}@v{version}":
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and '"error"' not in line:
                        return (time.perf_counter() - began) * 1000, failed
        failed += 1
    raise TimeoutError(f"version {version} did not answer within {MOST_S:g} s")


async def play_round(
    parts: Parts, second: TritonServer, http: httpx.AsyncClient, active: ServedTarget
) -> tuple[float, int]:
    """Kill the active version's Triton, roll back, and return what `first_token` does."""
    route = Route(model=MODEL, active=active, previous=parts.toy[1])
    await write_route(parts, route)
    await first_token(parts, http, 2)
    await asyncio.to_thread(second.kill)
    edit = roll_back(route, active.target, cause_id="benchmark")
    assert isinstance(edit, Changed)
    await write_route(parts, edit.route)
    return await first_token(parts, http, 1)


async def measure(rounds: int) -> None:
    """Play the rounds and print the figures."""
    async with contextlib.AsyncExitStack() as stack:
        parts = await stack.enter_async_context(toy_parts(token_delay_ms="5"))
        second = stack.enter_context(running(TritonServer(parts.folder / "second")))
        await write_route(parts, Route(model=OTHER, active=load_toy(parts.triton, OTHER, 1)))
        http = await stack.enter_async_context(
            httpx.AsyncClient(headers=parts.gateway.headers, trust_env=False, timeout=MOST_S)
        )
        load = await stack.enter_async_context(steady(parts.gateway, RATE_RPS, OTHER))
        await until(lambda: _has_answered(load))
        times, failed = [], []
        for number in range(rounds):
            active = await asyncio.to_thread(load_toy, second, MODEL, 2, token_delay_ms="5")
            took_ms, errors = await play_round(parts, second, http, active)
            times.append(took_ms)
            failed.append(errors)
            print(f"{number + 1}: {took_ms:.0f} ms, {errors} requests failed before", flush=True)
    lost = Counter(request.failed for request in load.sent if request.failed)
    rows = [
        (f"{name}", f"{value:.0f} ms")
        for name, value in (("median", quantile(times, 0.5)), ("p90", quantile(times, 0.9)), ("longest", max(times)))
    ]
    show_table(("first token of the previous version", f"{rounds} kills"), rows)
    print(f"within {LIMIT_MS} ms: {sum(took < LIMIT_MS for took in times)} of {rounds}; {sum(failed)} failed before")
    print(f"the model on the Triton that lives: {sum(lost.values())} of {len(load.sent)} requests failed {dict(lost)}")


async def _has_answered(load: Steady) -> bool:
    return any(request.version for request in load.sent)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
