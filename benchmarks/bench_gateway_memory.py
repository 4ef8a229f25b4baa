"""The memory of the gateway over many requests.

Chats of four tokens from a toy engine without a delay, every second one streamed, from 16 callers that keep their
connections, through the gateway to Triton; telemetry goes to a real NATS server, and texts are described. Printed are
the resident memory of the gateway and of its child that describes texts, and the share of the gateway that is private.
Run: python benchmarks/bench_gateway_memory.py [--requests 100000]
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.http_load import build_request, connect
from benchmarks.parts import MODEL, show_table, toy_parts, until
from contracts.routes import Route
from shared.storage.kv import Bucket
from testbed.gateway import Gateway

CALLERS = 16
PATH = "/v1/chat/completions"
WORDS = ("tide", "wind", "sail", "dock", "reef", "crew", "mast")


class Load:
    """Callers that share a number of requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._port, self._headers = gateway.port, gateway.headers
        self._numbers = iter(())

    def _request(self, number: int) -> bytes:
        text = " ".join(WORDS[number // 7**place % 7] for place in range(6))
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
        return build_request(PATH, body | {"stream": number % 2 == 0}, self._headers)

    async def send(self, first: int, count: int) -> None:
        """Send so many requests; raise RuntimeError for a failed one."""
        self._numbers = iter(range(first, first + count))
        await asyncio.gather(*(self._call() for _ in range(CALLERS)))

    async def _call(self) -> None:
        connection = await connect(self._port)
        for number in self._numbers:
            reply = await connection.post(self._request(number))
            if reply.status != 200 or b"error" in reply.body:
                raise RuntimeError(f"request {number} failed: {reply.status} {reply.body[:200]!r}")
        connection.close()


def read_memory(process: psutil.Process) -> tuple[float, float, float]:
    """Return resident and private memory of the gateway, and the resident memory of its children, in MB."""
    memory = process.memory_full_info()
    children = sum(child.memory_info().rss for child in process.children(recursive=True))
    return memory.rss / 1e6, memory.uss / 1e6, children / 1e6


async def measure(requests: int, points: int) -> list[list[str]]:
    """Return a row after each of `points` equal parts of the requests."""
    rows = []
    async with toy_parts() as parts:
        await Bucket(parts.js, "routes", Route).create(MODEL, Route(model=MODEL, epoch=1, active=parts.toy[1]))
        await until(lambda: asyncio.to_thread(lambda: parts.gateway.get(f"/v1/models/{MODEL}") is not None))
        process = psutil.Process(parts.gateway.process.pid)
        load, part, began = Load(parts.gateway), requests // points, time.monotonic()
        for point in range(points + 1):
            if point:
                await load.send((point - 1) * part, part)
            else:
                await load.send(0, 500)  # so that everything was used once
            await asyncio.sleep(1.0)  # the last records are published
            figures = [f"{value:.1f}" for value in read_memory(process)]
            rows.append([str(point * part), *figures, f"{time.monotonic() - began:.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=10, help="into how many parts the requests are divided")
    given = parser.parse_args()
    rows = asyncio.run(measure(given.requests, given.points))
    show_table(("requests", "resident, MB", "private, MB", "child that describes texts, MB", "after, s"), rows)


if __name__ == "__main__":
    main()
