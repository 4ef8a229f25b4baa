"""Sends a model live traffic through the gateway, as its users would, and says who answered.

    python -m examples.smollm2.traffic --url http://127.0.0.1:PORT --key-file FILE --model support-bot --rps 2 \
        [--after support-bot@v2]

An open loop: a slow answer does not hold the next request back. With `--after` it begins once that name can be asked
for. It ends on SIGTERM or SIGINT, waits for the answers that are under way, and with `--report` writes what it saw.
"""

import argparse
import asyncio
import json
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httpx

QUESTIONS = (
    "What does the for statement do in Python?",
    "Explain what a list is.",
    "How do I open a file?",
    "What is a dictionary good for?",
    "How do I define a function?",
)
PRINT_EVERY_S = 10.0
AT_ONCE = 100


@dataclass
class Seen:
    """What came back so far."""

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    drilled: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def line(self) -> str:
        by_version = ", ".join(f"{name} {count}" for name, count in sorted(self.answered.items()))
        return f"{self.sent} sent; answered: {by_version or 'none'}; failed: {len(self.failed)}"

    def report(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "answered": dict(self.answered),
            "drilled": self.drilled,
            "failed": self.failed,
            "slowest_s": round(self.slowest_s, 3),
        }


async def ask(client: httpx.AsyncClient, model: str, number: int, tokens: int, seen: Seen) -> None:
    body = {
        "model": model,
        "max_tokens": tokens,
        "temperature": 0.0,
        "user": f"user-{number}",
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
    }
    started = monotonic()
    try:
        response = await client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        text = response.json()["choices"][0]["message"]["content"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        seen.failed.append(f"request {number}: {error!r}"[:300])
        return
    seen.answered[response.headers["x-slipway-release"]] += 1
    seen.drilled += "x-slipway-drill" in response.headers
    seen.slowest_s = max(seen.slowest_s, monotonic() - started)
    assert isinstance(text, str)


async def wait_for(client: httpx.AsyncClient, name: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            if (await client.get(f"/v1/models/{name}")).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # the gateway may still be starting
        await asyncio.sleep(1.0)


async def print_progress(seen: Seen) -> None:
    while True:
        await asyncio.sleep(PRINT_EVERY_S)
        print(f"    traffic: {seen.line()}", flush=True)


async def run(options: argparse.Namespace) -> Seen:
    stop, seen = asyncio.Event(), Seen()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    limits = httpx.Limits(max_connections=AT_ONCE)
    headers = {"authorization": f"Bearer {options.key_file.read_text().strip()}"}
    async with httpx.AsyncClient(
        base_url=options.url, headers=headers, timeout=120.0, limits=limits, trust_env=False
    ) as client:
        if options.after:
            await wait_for(client, options.after, stop)
        printing = asyncio.create_task(print_progress(seen))
        running: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            task = asyncio.create_task(ask(client, options.model, seen.sent, options.tokens, seen))
            running.add(task)
            task.add_done_callback(running.discard)
            seen.sent += 1
            try:
                async with asyncio.timeout(1.0 / options.rps):
                    await stop.wait()
            except TimeoutError:
                pass
        await asyncio.gather(*running)
        printing.cancel()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Send live traffic to a model and say who answered.")
    parser.add_argument("--url", required=True, help="where the gateway is")
    parser.add_argument("--key-file", type=Path, required=True, help="file with a key for the gateway")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rps", type=float, default=2.0, help="requests per second")
    parser.add_argument("--tokens", type=int, default=8, help="longest answer, in tokens")
    parser.add_argument("--after", help="begin once this model name can be asked for, for example support-bot@v2")
    parser.add_argument("--report", type=Path, help="write what was seen here, as JSON")
    options = parser.parse_args()
    seen = asyncio.run(run(options))
    print(f"    traffic: {seen.line()}", flush=True)
    if options.report:
        options.report.write_text(json.dumps(seen.report(), indent=1))


if __name__ == "__main__":
    main()
