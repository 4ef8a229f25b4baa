"""What one key's large bodies cost honest callers: their latency before and meanwhile.

A process of its own, at the lowest priority, has --bodies connections of one key that send chats whose
`chat_template_kwargs` have --values small values, the next one as soon as one is answered. Honest callers ask at a
steady rate meanwhile, with prompts of 20 kB and short ones. Everything runs on the same cores.

- p50, p99: of the honest callers' whole answers (two tokens of the toy engine), milliseconds.

Run: python -m benchmarks.bench_large_bodies [--bodies 64] [--values 15000] [--seconds 40] [--rate 10]
"""

import argparse
import asyncio
import functools
import json
import os
import platform
import sys
from collections import Counter
from datetime import UTC, datetime

from benchmarks.parts import MODEL, Parts, SentRequest, quantile, show_table, steady, toy_parts, until
from contracts.routes import Route
from shared.storage.kv import Bucket
from testbed.gateway import Gateway

AGAIN_S = 0.05
"""How long a connection rests between two bodies."""


def large_request(key: str, values: int) -> bytes:
    """Return the request of a chat with many small values."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    body = json.dumps({**chat, "chat_template_kwargs": {"a": [{"a": 1}] * (values // 2)}}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"authorization: Bearer {key}",
    )
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


async def attack(port: int, count: int, values: int) -> None:
    """Send large bodies until standard input ends; print what was answered as JSON for each line that comes in."""
    os.nice(19)
    request, answered = large_request(sys.stdin.readline().strip(), values), Counter[str]()

    async def send() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                answered[(await reader.readexactly(12))[9:].decode()] += 1
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(AGAIN_S)

    lines: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send()) for _ in range(count)]
        while await lines.get():
            print(json.dumps(answered), flush=True)
        for task in tasks:
            task.cancel()


async def start_attack(gateway: Gateway, count: int, values: int) -> asyncio.subprocess.Process:
    """Start the attacker; it is given its key on standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bench_large_bodies", "--attack", str(gateway.port)),
        *("--bodies", str(count), "--values", str(values)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    gateway.keys.ensure("slow", ["production"], datetime.now(UTC))
    process.stdin.write(gateway.keys.key_file("slow").read_bytes())
    return process


async def numbers(process: asyncio.subprocess.Process) -> dict[str, int]:
    """Return how many of the attacker's bodies were answered, by status."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    answer: dict[str, int] = json.loads(await process.stdout.readline())
    return answer


def row(phase: str, sent: list[SentRequest]) -> tuple[str, ...]:
    took = [request.took_ms for request in sent if not request.failed]
    failed = [request.failed for request in sent if request.failed]
    shown = [f"{quantile(took, share):.0f}" if took else "-" for share in (0.5, 0.99)]
    return (phase, str(len(sent)), str(len(failed)), *shown)


async def measure(count: int, seconds: float, rate: float, values: int) -> None:
    """Measure what large bodies of one key cost others, before it sends them and meanwhile."""
    async with toy_parts(token_delay_ms="5") as parts:
        await serve(parts)
        rows: list[tuple[str, ...]] = []
        async with steady(parts.gateway, rate) as short, steady(parts.gateway, rate, prompt="x" * 20_000) as long:
            await asyncio.sleep(5)
            for phase in ("before", "during"):
                process = await start_attack(parts.gateway, count, values) if phase == "during" else None
                await asyncio.sleep(10 if process else 0)
                begun = {"short": (short, len(short.sent)), "20 kB": (long, len(long.sent))}
                await asyncio.sleep(seconds)
                ended = {kind: load.sent[first:] for kind, (load, first) in begun.items()}
                await until(functools.partial(are_answered, [*ended["short"], *ended["20 kB"]]))
                rows += [row(f"{phase}, {kind}", sent) for kind, sent in ended.items()]
                if process is not None:
                    answered = await numbers(process)
                    process.kill()
                    await process.wait()
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        show_table(("honest callers", "requests", "failed", "p50", "p99"), rows)
        print(f"the attacker's bodies, by status: {answered}")


async def are_answered(sent: list[SentRequest]) -> bool:
    """Return whether all requests have ended."""
    return all(request.took_ms or request.failed for request in sent)


async def serve(parts: Parts) -> None:
    """Route the toy model, and wait until the gateway lists it."""
    await Bucket(parts.js, "routes", Route).create(
        MODEL, Route(model=MODEL, epoch=1, active=parts.toy[2], previous=parts.toy[1], cause_id="bench")
    )

    async def served() -> bool:
        listed = await asyncio.to_thread(parts.gateway.get, "/v1/models")
        return listed is not None and bool(listed.json()["data"])

    await until(served)


def main() -> None:
    """Parse the arguments and measure, or attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=64, help="connections of one key that send large bodies")
    parser.add_argument("--values", type=int, default=15_000, help="small values of each of them")
    parser.add_argument("--seconds", type=float, default=40.0, help="length of each of the two phases")
    parser.add_argument("--rate", type=float, default=10.0, help="honest requests a second")
    parser.add_argument("--attack", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack, options.bodies, options.values))
    else:
        asyncio.run(measure(options.bodies, options.seconds, options.rate, options.values))


if __name__ == "__main__":
    main()
