"""What thousands of slow connections, or one key's large bodies, cost honest callers: their latency before and after.

A process of its own, at the lowest priority, keeps as many connections to the gateway open as it can, up to the number
asked for, in equal parts: connections that say nothing, headers that arrive byte by byte, bodies that arrive byte by
byte (all by strangers without a key), and streams of 20 tokens that a caller with a key of its own reads byte by byte.
What the gateway closes is opened again after some seconds. Honest callers ask at a steady rate meanwhile. Everything
runs on the same cores.

With --bodies, that many connections of one key send chats instead whose `chat_template_kwargs` have --values small
values, the next one as soon as one is answered; honest callers send prompts of 20 kB and short ones, at the same rate.

- p50, p99: of the honest callers' whole answers (two tokens of the toy engine), milliseconds.
- open: connections of the attacker that were open at the end of the phase; opened: all that it opened in it.
- limit: the p99 during it is at most twice the p99 before.

Run: python -m benchmarks.bench_slow_connections [--connections 10000] [--seconds 40] [--rate 10] [--again 10]
or: python -m benchmarks.bench_slow_connections --bodies 64 [--values 64000]
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil

from benchmarks.parts import MODEL, Parts, SentRequest, quantile, show_table, steady, toy_parts, until
from contracts.routes import Route
from shared.storage.kv import Bucket
from testbed.gateway import Gateway

EVERY_S = 2.0
"""A slow sender sends one byte so often."""
KINDS = ("says nothing", "slow headers", "slow body", "slow reader")
LARGE = "large body"
LIMIT = 2.0


@dataclass
class Attack:
    """The connections of the attacker."""

    port: int
    key: str
    again_s: float
    values: int = 0
    open: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    async def keep(self, kind: str) -> None:
        """Keep one connection of a kind open."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=16)
            except OSError:
                await asyncio.sleep(self.again_s)
                continue
            self.opened[kind] += 1
            self.open[kind] += 1
            try:
                await self._hold(kind, reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                self.open[kind] -= 1
                writer.close()
            await asyncio.sleep(self.again_s)

    async def _hold(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Return when the gateway has closed the connection."""
        if kind == LARGE:
            writer.write(self._large)
            self.answered[(await reader.readexactly(12))[9:].decode()] += 1
            return
        if kind == "slow reader":
            writer.write(self._stream())
            for _ in range(10_000):
                await asyncio.sleep(EVERY_S)
                if not await reader.read(1):
                    break
            return
        slow = {"says nothing": b"", "slow headers": b"", "slow body": self._head(10_000)}[kind]
        writer.write(slow)
        sending = b"GET / HTTP/1.1\r\nx: " if kind == "slow headers" else b"{"
        for number in range(10_000):
            if kind != "says nothing":
                writer.write(sending[number : number + 1] or b"x")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1024), EVERY_S)
                return  # an answer, such as 401, or the end

    @functools.cached_property
    def _large(self) -> bytes:
        """A chat with many small values."""
        small = [{"a": 1}] * (self.values // 2)
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        body = json.dumps({**chat, "chat_template_kwargs": {"a": small}}).encode()
        return self._head(len(body), f"authorization: Bearer {self.key}", "/v1/chat/completions") + body

    def _head(self, length: int, authorization: str = "", path: str = "/v1/completions") -> bytes:
        lines = [
            f"POST {path} HTTP/1.1",
            "host: x",
            "content-type: application/json",
            f"content-length: {length}",
        ]
        return ("\r\n".join([*lines, *([authorization] if authorization else [])]) + "\r\n\r\n").encode()

    def _stream(self) -> bytes:
        body = json.dumps({"model": MODEL, "prompt": "x" * 200, "max_tokens": 20, "stream": True}).encode()
        return self._head(len(body), f"authorization: Bearer {self.key}") + body


async def attack(port: int, count: int, again_s: float, values: int) -> None:
    """Keep connections open until standard input ends; print their numbers as JSON for each line that comes in."""
    os.nice(19)
    plan, kinds = Attack(port, sys.stdin.readline().strip(), again_s, values), (LARGE,) if values else KINDS
    tasks = []
    lines: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    for number in range(count):
        tasks.append(asyncio.create_task(plan.keep(kinds[number % len(kinds)])))
        if number % 50 == 0:
            await asyncio.sleep(0.05)
    while await lines.get():
        print(json.dumps({"open": plan.open, "opened": plan.opened, "answered": plan.answered}), flush=True)


async def start_attack(gateway: Gateway, count: int, again_s: float, values: int = 0) -> asyncio.subprocess.Process:
    """Start the attacker; it is given its key on standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bench_slow_connections", "--attack", str(gateway.port)),
        *("--connections", str(count), "--again", str(again_s), "--values", str(values)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    gateway.keys.ensure("slow", ["production"], datetime.now(UTC))
    process.stdin.write(gateway.keys.key_file("slow").read_bytes())
    return process


async def numbers(process: asyncio.subprocess.Process) -> dict[str, dict[str, int]]:
    """Return how many connections the attacker has open, and has opened."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    answer: dict[str, dict[str, int]] = json.loads(await process.stdout.readline())
    return answer


def connections_of(gateway: Gateway) -> int:
    """Return how many connections of callers the gateway has open."""
    assert gateway.process is not None
    open_ = psutil.Process(gateway.process.pid).net_connections("tcp4")
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == gateway.port for each in open_)


def row(phase: str, sent: list[SentRequest]) -> tuple[str, ...]:
    took = [request.took_ms for request in sent if not request.failed]
    failed = [request.failed for request in sent if request.failed]
    shown = [f"{quantile(took, share):.0f}" if took else "-" for share in (0.5, 0.99)]
    return (phase, str(len(sent)), str(len(failed)), *shown)


async def measure_bodies(count: int, seconds: float, rate: float, values: int) -> None:
    """Measure what large bodies of one key cost others, before it sends them and meanwhile."""
    async with toy_parts(token_delay_ms="5") as parts:
        await serve(parts)
        rows: list[tuple[str, ...]] = []
        async with steady(parts.gateway, rate) as short, steady(parts.gateway, rate, prompt="x" * 20_000) as long:
            await asyncio.sleep(5)
            for phase in ("before", "during"):
                process = await start_attack(parts.gateway, count, 0.05, values) if phase == "during" else None
                await asyncio.sleep(10 if process else 0)
                begun = {"short": (short, len(short.sent)), "20 kB": (long, len(long.sent))}
                await asyncio.sleep(seconds)
                ended = {kind: load.sent[first:] for kind, (load, first) in begun.items()}
                await until(functools.partial(are_answered, [*ended["short"], *ended["20 kB"]]))
                rows += [row(f"{phase}, {kind}", sent) for kind, sent in ended.items()]
                if process is not None:
                    answered = (await numbers(process))["answered"]
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


async def measure(count: int, seconds: float, rate: float, again_s: float) -> None:
    """Measure the three phases and print them."""
    async with toy_parts(token_delay_ms="5") as parts:
        await serve(parts)
        rows = []
        async with steady(parts.gateway, rate) as load:
            await asyncio.sleep(5)  # the first requests open connections
            load.sent.clear()
            await asyncio.sleep(seconds)
            rows.append(before := row("before", load.sent))
            process = await start_attack(parts.gateway, count, again_s)
            try:
                await asyncio.sleep(15 + count / 1000)  # all are open, or were refused
                load.sent.clear()
                start = await numbers(process)
                await asyncio.sleep(seconds)
                rows.append(during := row("during", under_attack := list(load.sent)))
                end = await numbers(process)
                held = connections_of(parts.gateway)
            finally:
                process.kill()
                await process.wait()
            await asyncio.sleep(15)
            load.sent.clear()
            await asyncio.sleep(seconds)
            rows.append(row("after", load.sent))
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        show_table(("honest callers", "requests", "failed", "p50", "p99"), rows)
        opened = {kind: end["opened"].get(kind, 0) - start["opened"].get(kind, 0) for kind in KINDS}
        attacked = [(kind, str(end["open"].get(kind, 0)), str(opened[kind])) for kind in KINDS]
        show_table(("attacker", "open", "opened"), attacked)
        print(f"connections of callers that the gateway had open: {held}")
        for reason, number in Counter(request.failed for request in under_attack if request.failed).most_common(5):
            print(f"failed: {number} x {reason}")
        ratio = float(during[4]) / max(float(before[4]), 1.0)
        print(f"p99 during / before: {ratio:.2f}, limit {LIMIT:.0f}: {'yes' if ratio <= LIMIT else 'NO'}")


def main() -> None:
    """Parse the arguments and measure, or attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=40.0, help="length of each of the three phases")
    parser.add_argument("--rate", type=float, default=10.0, help="honest requests a second")
    parser.add_argument("--again", type=float, default=10.0, help="seconds until a closed connection is opened again")
    parser.add_argument("--bodies", type=int, help="connections of one key that send large bodies instead")
    parser.add_argument("--values", type=int, default=64_000, help="small values of each of them")
    parser.add_argument("--attack", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack, options.connections, options.again, options.values))
    elif options.bodies:
        asyncio.run(measure_bodies(options.bodies, options.seconds, options.rate, options.values))
    else:
        asyncio.run(measure(options.connections, options.seconds, options.rate, options.again))


if __name__ == "__main__":
    main()
