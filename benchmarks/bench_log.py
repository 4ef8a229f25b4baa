"""Commands on a long event log: how long they take, and how much memory they need.

    python -m benchmarks.bench_log [--facts 1000000] [--models 100] [--tries 3] [--precede]

A real bus and store on this machine, in a folder that is removed afterwards. Each thousandth fact opens a release of
about 30 facts; one release in 25 is followed by an alert; all other facts are windows of traffic. Each command is a
process of its own, so its start counts, and `slipway --version` is beside it. Limit: 1 s for each command. The seconds
of the processor depend less on what else the machine does. With `--precede` (root only) servers and commands run at
real-time priority, so that nothing else delays them: the figures of an idle machine on a busy one.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from nats.aio.client import Client

from contracts.envelope import Event
from contracts.services import EVENTS
from shared.messaging.provision import provision
from shared.storage.blobs import Store
from testbed.attesters import attester_keys
from testbed.released import release
from testbed.servers import NatsServer, S3Server, connection, running
from testbed.services import environment
from testbed.story import Story

LIMIT_S = 1.0
PER_RELEASE = 1000
ALERTS_EVERY = 25
BATCH = 4000
"""Messages that wait in the server at once; it drops what is more than 10,000."""
MODEL, VERSIONS = "model-0", 3
COMMANDS = (
    ("--version",),
    ("status",),
    ("status", MODEL),
    ("versions", MODEL),
    ("show", f"{MODEL}@v1"),
    ("alerts",),
)


def facts(count: int, models: int) -> Iterator[tuple[str, bytes]]:
    """Yield subjects and bodies of so many facts."""
    story = Story(datetime.now(UTC) - timedelta(days=60), assessments=2)
    windows: dict[str, tuple[str, str]] = {}
    for number in range(count // PER_RELEASE):
        model = f"model-{number % models}"
        events = list(story.release(model, number // models + 1, number, until="promoted"))
        if number % ALERTS_EVERY == ALERTS_EVERY - 1:
            events += story.alert(model, roll_back=story.has_previous(model))
        for event in events:
            yield event.nats_subject, _body(event).encode()
        if model not in windows:
            (window,) = story.windows(model, 1, ttft_ms=100.0, requests=50)
            windows[model] = window.nats_subject, _body(window)
        known = list(windows.values())
        for position in range(PER_RELEASE - len(events)):
            subject, body = known[position % len(known)]
            yield subject, body.encode()


def _body(event: Event) -> str:
    return event.model_dump_json(by_alias=True)


async def fill(client: Client, count: int, models: int) -> tuple[int, int, float]:
    """Publish so many facts; return how many the log has then, their bytes, and the seconds that it took."""
    js, began, sent = client.jetstream(timeout=60), time.perf_counter(), 0
    for subject, body in facts(count, models):
        await client.publish(subject, body)
        sent += 1
        if sent % BATCH == 0:
            await stored(client, sent)
    await stored(client, sent)
    state = (await js.stream_info(EVENTS)).state
    return state.messages, state.bytes, time.perf_counter() - began


async def stored(client: Client, count: int) -> None:
    """Return once the log has so many messages."""
    await client.flush(60)
    while (await client.jetstream(timeout=60).stream_info(EVENTS)).state.last_seq < count:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)


def timed(command: tuple[str, ...], variables: dict[str, str], folder: Path) -> tuple[float, float, float]:
    """Run a command as a process of its own; return its seconds, those of the processor, and its peak memory in MiB."""
    with (folder / "out").open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "clients.cli.main", *command], stdout=out, stderr=out, env=variables
        )
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
    assert os.waitstatus_to_exitcode(status) == 0, (command, (folder / "out").read_text()[-2000:])
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


async def prepare(nats: NatsServer, count: int, models: int) -> tuple[int, int, float]:
    """Return what `fill` returns, of a bus that was set up."""
    client = await nats.connect()
    try:
        await provision(client.jetstream(timeout=30))
        return await fill(client, count, models)
    finally:
        await client.close()


def precede() -> None:
    """Let this process, its children and what they start run before all others of the machine."""
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        for thread in process.threads():
            os.sched_setscheduler(thread.id, os.SCHED_RR, os.sched_param(10))


def measure(count: int, models: int, tries: int, *, precedes: bool = False) -> dict:
    """Return what was measured on a log of so many facts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nats, s3 = NatsServer(folder), S3Server(folder)
        with running(nats), running(s3):
            settings = connection(nats, s3, folder)
            store = Store(settings)
            for version in range(1, VERSIONS + 1):
                release(store, folder / "models", MODEL, version)
            events, size, filled_s = asyncio.run(prepare(nats, count, models))
            variables = environment(settings) | {"SLIPWAY_ATTESTERS": str(attester_keys(folder / "models").listing)}
            rows = []
            if precedes:
                precede()
            for command in COMMANDS:
                runs = [timed(command, variables, folder) for _ in range(tries)]
                seconds, processor = (statistics.median(run[place] for run in runs) for place in (0, 1))
                row = {"command": " ".join(command), "median_s": seconds, "cpu_s": processor}
                rows.append({**row, "peak_mib": max(run[2] for run in runs)})
    return {"facts": events, "log_bytes": size, "filled_s": filled_s, "commands": rows}


def main() -> None:
    """Print a table; exit code 1 if a command takes longer than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--precede", action="store_true", help="real-time priority for servers and commands")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.facts, options.models, options.tries, precedes=options.precede)
    if options.json:
        print(json.dumps(result))
    else:
        size = result["log_bytes"] / 1e6
        print(f"{result['facts']:,} facts of {options.models} models, {size:,.0f} MB, in {result['filled_s']:.0f} s")
        print(f"{'command':<24}{'median':>9}{'limit':>8}{'processor':>12}{'peak memory':>14}")
        for row in result["commands"]:
            figures = f"{row['median_s']:>7.2f} s{LIMIT_S:>6.0f} s{row['cpu_s']:>10.2f} s{row['peak_mib']:>10.0f} MiB"
            print(f"{row['command']:<24}{figures}")
    raise SystemExit(int(max(row["median_s"] for row in result["commands"]) > LIMIT_S))


if __name__ == "__main__":
    main()
