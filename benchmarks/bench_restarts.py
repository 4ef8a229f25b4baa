"""Restarts of Triton under traffic: crashes, hangs, and the time until all models are served again.

The whole embedded stack with the toy engine serves two models, under a steady load for both and with busy loops on the
CPUs. Triton is killed repeatedly (SIGKILL). After each kill the benchmark measures the time until both models answer.
It counts separately the crashes that it did not cause (`Signal (n) received` in Triton's log, a restart without a
kill) and the hangs (not served again within the limit).
Run: python benchmarks/bench_restarts.py --restarts 200 --busy 2 --report restarts.json
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from benchmarks.parts import quantile
from testbed.models import tiny_base, tiny_lora
from testbed.stack import Stack

MODELS = ("one", "two")
LIMIT_S = 150.0
"""Seconds without an answer after which a restart counts as a hang, and Triton is killed again."""
ASK_EVERY_S = 0.25
CRASH = re.compile(r"^Signal \((?!15\))\d+\) received", re.MULTILINE)


@dataclass
class Result:
    """The counts and times of all restarts so far."""

    restarts: int = 0
    recovery_s: list[float] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    unrequested_restarts: int = 0
    hangs: int = 0
    requests: dict[str, int] = field(default_factory=dict)


class Traffic:
    """A steady load for every model; records when the last answered request of each was sent."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self.answered: dict[str, float] = dict.fromkeys(MODELS, 0.0)
        self.count: Counter[str] = Counter()

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(headers=self._headers, timeout=5.0, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            while True:
                for model in MODELS:
                    group.create_task(self._ask(client, model))
                await asyncio.sleep(ASK_EVERY_S)

    async def _ask(self, client: httpx.AsyncClient, model: str) -> None:
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
        asked = time.monotonic()
        try:
            status = str((await client.post(f"{self._url}/v1/chat/completions", json=body)).status_code)
        except httpx.TransportError as error:
            status = type(error).__name__
        self.count[status] += 1
        if status == "200":
            self.answered[model] = max(self.answered[model], asked)


async def measure(stack: Stack, restarts: int, result: Result, report: Path | None) -> None:
    """Kill Triton repeatedly and record each recovery."""
    traffic = Traffic(f"http://127.0.0.1:{stack.part('gateway')['port']}", stack.headers)
    running = asyncio.create_task(traffic.run())
    log = stack.state / "logs" / "triton.log"
    try:
        for number in range(1, restarts + 1):
            before, offset = stack.part("triton"), log.stat().st_size
            killed = time.monotonic()
            os.kill(before["pid"], signal.SIGKILL)
            if await served_again(traffic, killed):
                result.recovery_s.append(time.monotonic() - killed)
            else:
                result.hangs += 1
            await asyncio.sleep(2.0)  # a crash right after the first answers counts for this restart
            result.restarts += 1
            result.unrequested_restarts += stack.part("triton")["restarts"] - before["restarts"] - 1
            with log.open("rb") as file:
                file.seek(offset if log.stat().st_size >= offset else 0)
                result.crashes += CRASH.findall(file.read().decode(errors="replace"))
            result.requests = dict(traffic.count)
            if report is not None:
                await asyncio.to_thread(report.write_text, json.dumps(asdict(result)))
            if number % 10 == 0:
                show(result)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def served_again(traffic: Traffic, killed: float) -> bool:
    """Return whether, within the limit, each model answered a request that was sent after the kill."""
    while time.monotonic() - killed < LIMIT_S:
        if min(traffic.answered.values()) > killed:
            return True
        await asyncio.sleep(0.05)
    return False


def show(result: Result) -> None:
    """Print the result so far."""
    times = result.recovery_s or [float("nan")]
    shown = "  ".join(f"p{share * 100:g} {quantile(times, share):.2f}" for share in (0.5, 0.95, 0.99))
    print(
        f"{result.restarts} restarts: {len(result.crashes)} crashes {dict(Counter(result.crashes))}, "
        f"{result.unrequested_restarts} unrequested restarts, {result.hangs} hangs\n"
        f"  served again after, s: {shown}  max {max(times):.2f}\n  requests: {result.requests}",
        flush=True,
    )


def main() -> None:
    """Start the stack, release two models, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 2, help="busy loops beside the stack")
    parser.add_argument("--report", type=Path, help="file for the result, as JSON, written after each restart")
    options = parser.parse_args()
    result = Result()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = tiny_base(folder / "tiny-llama")
        with Stack(folder / "state") as stack:
            stack.ok("base", "import", str(base))
            for number, model in enumerate(MODELS):
                stack.publish(model, tiny_lora(base, folder / model, seed=number), "--variant", "bf16")
                stack.promoted(model)
            loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
            try:
                asyncio.run(measure(stack, options.restarts, result, options.report))
            finally:
                for loop in loops:
                    loop.kill()
                    loop.wait()
    show(result)


if __name__ == "__main__":
    main()
