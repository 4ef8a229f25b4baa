"""What the transport to Triton costs the gateway in processor time.

A toy engine generates a token every 20 ms. In each round 32 chats of 32 tokens are requested at the same time, on one
stream with a message for each step of the engine (`shared/serving/engine_streams.py`). The figure is the processor time
of this process, all threads, per request: nothing else runs in it. HTTP to the caller is not part of it.
Run: python benchmarks/bench_transport.py
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shared.serving.channels import Channels
from shared.serving.engine_streams import stream_api
from shared.serving.openai_stream import ApiPiece, ApiRequest
from testbed.gateway import load_toy
from testbed.servers import running
from testbed.triton import TritonServer

STREAMS, TOKENS, TOKEN_DELAY_MS, ROUNDS = 32, 32, 20, 12
TALK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "stream": True}
REQUEST = ApiRequest("POST", "/v1/chat/completions", json.dumps(TALK).encode(), 60.0, "bench", "toy")

Pieces = AsyncGenerator[ApiPiece, None]


async def ask(pieces: Pieces) -> float:
    """Read an answer; return the time to its first part, in milliseconds."""
    began, first = time.perf_counter(), 0.0
    async with aclosing(pieces) as stream:
        async for _ in stream:
            first = first or time.perf_counter() - began
    return first * 1000


async def measure(endpoint: str, name: str) -> None:
    """Print the medians of all rounds but the first."""
    channels = Channels()
    channel = channels.get(endpoint)
    costs, firsts = [], []
    for _ in range(ROUNDS + 1):
        began = time.process_time()
        times = await asyncio.gather(*(ask(stream_api(channel, name, REQUEST)) for _ in range(STREAMS)))
        costs.append((time.process_time() - began) / STREAMS * 1000)
        firsts.append(median(times))
    await channels.close()
    cost, first = median(costs[1:]), median(firsts[1:])
    print(f"{cost:.2f} ms of processor time a request, first part after {first:.1f} ms (p50)")


def main() -> None:
    """Start Triton with the toy engine and measure."""
    with tempfile.TemporaryDirectory() as folder, running(TritonServer(Path(folder))) as triton:
        served = load_toy(triton, "toy", 1, token_delay_ms=str(TOKEN_DELAY_MS))
        asyncio.run(measure(triton.endpoint, served.target.triton_name))


if __name__ == "__main__":
    main()
