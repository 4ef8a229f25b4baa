"""The time of a rollback in containers beside that of `slipway up`, on the same machine, one after the other.

Each installation has the toy engine, serves the same versions of a tiny model to steady callers, and goes back through
them: by rehearsals (a fault is injected in staging, the monitor raises the alert) and by ordered rollbacks in
production. The first figure is from the alert, or from the order, to the new route, by the timeline in the event log;
the second until the last request was sent that the failed version answered, by the callers (negative: before the alert
or the order).
Needs what `make demo-containers` needs, root included, and its images; without them it says so, and measures nothing.
Run: python benchmarks/bench_containers.py --versions 4
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from clients.cli.connection import find_stack
from contracts.version import VERSION
from testbed.containers import engine
from testbed.containers.__main__ import NEEDED, TOY, only_one
from testbed.containers.demo import AUTOMATIC, image_of, make_models
from testbed.containers.installation import ROOT, Installation
from testbed.containers.waiting import report, step, wait_for
from testbed.stack import DATA_HASH, POLICY, Stack

MODEL, PROJECT = "bot", "slipway-demo"
INTERVAL_S = 0.05
RELEASED_S, MOVED_S = 600, 120
SLOW = {"name": "slow", "metric": "ttft_ms", "threshold": 3000, "allowed_ratio": 0.1, **AUTOMATIC}
POLICY_OF_RELEASES = {**POLICY, "rehearsal": "required", "triggers": [SLOW]}


@dataclass
class Callers:
    """Requests at a steady rate; when each was sent, and which release answered it."""

    url: str
    key: str
    sent: list[tuple[datetime, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(start,), daemon=True) for start in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def last_of(self, release: str) -> datetime:
        """Return when the last request was sent that a release answered."""
        return max(at for at, answered_by in [*self.sent] if answered_by == release)

    def _ask(self, start: int) -> None:
        body = {"model": MODEL, "prompt": "hello", "max_tokens": 4}
        step_s, due = INTERVAL_S * 4, time.monotonic() + start * INTERVAL_S
        with httpx.Client(headers={"authorization": f"Bearer {self.key}"}, timeout=30, trust_env=False) as client:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += step_s
                at = datetime.now(UTC)
                try:
                    answer = client.post(f"{self.url}/v1/completions", json=body)
                    answer.raise_for_status()
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                else:
                    self.sent.append((at, answer.headers["x-slipway-release"]))


@dataclass
class Side:
    """An installation: its name, its command line, where it finds the models, and its gateway."""

    name: str
    slipway: Callable[..., str]
    models: str
    url: str
    switched_ms: dict[str, list[float]] = field(default_factory=lambda: {"rehearsal": [], "order": []})
    last_sent_ms: list[float] = field(default_factory=list)
    requests: int = 0

    def run(self, versions: int) -> None:
        """Release the versions, and go back through them."""
        with step(f"{self.name}: release {versions} versions, each with a rehearsal"):
            self.slipway("base", "import", f"{self.models}/tiny-llama")
            for number in range(1, versions + 1):
                self._release(number)
        key = json.loads(self.slipway("keys", "issue", "bench", "--model", MODEL, "--unlimited", "--json"))["key"]
        with step(f"{self.name}: {versions - 1} ordered rollbacks under load"), Callers(self.url, key) as callers:
            for number in range(versions, 1, -1):
                wait_for(lambda: len(callers.sent) > 20, 60, "answers", lambda: callers.failed[-1:])
                self._roll_back(number, callers)
            self.requests = len(callers.sent)
        if callers.failed:
            raise RuntimeError(f"{self.name}: {len(callers.failed)} requests failed: {callers.failed[:3]}")
        for data in self._completed("staging"):
            self.switched_ms["rehearsal"].append(_ms(data["timeline"]))

    def _release(self, number: int) -> None:
        checkpoint = ("--base", "tiny-llama", "--adapter", f"{self.models}/adapter-{number}", "--variant", "bf16")
        proof = ("--run-id", f"run-{number}", "--data-hash", DATA_HASH, "--policy", f"{self.models}/policy.json")
        self.slipway("publish", "--model", MODEL, *checkpoint, *proof)
        self.slipway("status", MODEL, "--follow", "--until", "finished", "--timeout", str(RELEASED_S),
                     timeout_s=RELEASED_S + 60)  # fmt: skip

    def _roll_back(self, version: int, callers: Callers) -> None:
        """Order a rollback as soon as the previous version is hot, and note its times."""
        failed, before = f"{MODEL}.v{version}.bf16", len(self._completed("production"))
        end = time.monotonic() + MOVED_S
        while True:
            try:
                self.slipway("rollback", MODEL, "--target", failed, "--reason", "bench")
                break
            except (RuntimeError, AssertionError):
                if time.monotonic() > end:
                    raise
                time.sleep(1.0)
        wait_for(lambda: len(self._completed("production")) > before, MOVED_S, f"rollback of {failed}")
        timeline = self._completed("production")[-1]["timeline"]
        self.switched_ms["order"].append(_ms(timeline))
        ordered_at = datetime.fromisoformat(timeline["detected_at"])
        behind = callers.last_of(f"{MODEL}@v{version}") - ordered_at
        self.last_sent_ms.append(behind / timedelta(milliseconds=1))

    def _completed(self, environment: str) -> list[dict[str, Any]]:
        lines = self.slipway("events", MODEL, "--type", "rollback.completed", "--json").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event["data"] for event in events if event["environment"] == environment]


def _ms(timeline: dict[str, str]) -> float:
    """Return the milliseconds from the alert or the order to the new route."""
    start, end = (datetime.fromisoformat(timeline[name]) for name in ("detected_at", "switched_at"))
    return (end - start) / timedelta(milliseconds=1)


@contextmanager
def containers(folder: Path) -> Iterator[Side]:
    """Start compose.yaml's installation with SeaweedFS and the toy engine; nothing of it is left."""
    with Installation(folder, PROJECT) as stack:
        with step("containers: start all services"):
            stack.up()
        yield Side("containers", stack.slipway, "/models", stack.url)


@contextmanager
def processes(folder: Path) -> Iterator[Side]:
    """Start `slipway up` with the toy engine."""
    stack = Stack(folder / "state")
    try:
        with step("slipway up: start all services"):
            stack.up()
        url = str(find_stack(folder / "state").gateway_url)
        yield Side("slipway up", stack.ok, str(folder / "models"), url)
    finally:
        stack.down()


def table(sides: list[Side]) -> None:
    """Print the figures of both."""
    print("| ms | " + " | ".join(side.name for side in sides) + " |\n|---|" + "---|" * len(sides))
    rows = {
        "from the alert of a rehearsal to the new route": [side.switched_ms["rehearsal"] for side in sides],
        "from an order to the new route": [side.switched_ms["order"] for side in sides],
        "from an order to the last request that the failed version answered": [side.last_sent_ms for side in sides],
    }
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(map(_describe, values)) + " |")
    report("; ".join(f"{side.name}: {side.requests} requests, none failed" for side in sides))


def _describe(values: list[float]) -> str:
    if not values:
        return "none"
    return f"{statistics.median(values):.0f} (of {len(values)}: {', '.join(f'{each:.0f}' for each in values)})"


def lacking() -> str:
    """Return why containers cannot be measured here, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    if missing := engine.missing_programs():
        return f"not installed: {', '.join(missing)}"
    if subprocess.run([str(ROOT / "deploy/docker/check-podman.sh")], check=False, timeout=60).returncode:
        return "podman starts no container"
    there = engine.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    missing = [name for name in (*NEEDED, TOY) if image_of(name, VERSION) not in there]
    return f"no image of {', '.join(missing)} (make images)" if missing else ""


def main() -> None:
    """Measure both, and print them beside each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=4, help="versions released; one rollback less is ordered")
    options = parser.parse_args()
    if options.versions < 2:
        parser.error(f"--versions {options.versions} is less than 2: there is nothing to roll back to")
    if why := lacking():
        print(f"bench_containers measures nothing here: {why}")
        return
    sides = []
    with only_one() as folder:
        folder.chmod(0o755)
        (folder / "models").mkdir()
        make_models(folder / "models", [f"adapter-{number}" for number in range(1, options.versions + 1)])
        (folder / "models/policy.json").write_text(json.dumps(POLICY_OF_RELEASES))
        for start in (processes, containers):
            with start(folder) as side:
                side.run(options.versions)
            sides.append(side)
    table(sides)


if __name__ == "__main__":
    main()
