"""Signals to randomly drawn processes of a stack, which its own supervisor starts again."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.local.processes import Recorded, is_running
from testbed.soak.progress import Progress
from testbed.soak.threads import Threads
from testbed.stack import Stack

SERVER_WEIGHTS = {"nats": 0.4, "s3": 0.4, "triton": 0.2}
"""How likely a server is drawn, where each process of a service has 1: all services stand while one is away."""
AGENT_WEIGHT = 0.5
SIGNALS = {"SIGKILL": 0.75, "SIGTERM": 0.15, "SIGSTOP": 0.10}
"""How likely each signal is; a stopped process goes on after 1 to 8 s, unless the supervisor took it for hung."""
STOPPED_S = (1.0, 8.0)


@dataclass(frozen=True)
class Draw:
    """A signal to a part, and for how long it is stopped."""

    part: str
    signal: str
    stopped_s: float = 0.0


def weight_of(part: str) -> float:
    """Return how likely a part is drawn, relative to a process of a service."""
    kind = part.rstrip("0123456789").removesuffix("-")
    if kind.startswith("agent"):
        return AGENT_WEIGHT
    return SERVER_WEIGHTS.get(kind, 1.0)


def draw(chance: random.Random, parts: Sequence[str]) -> Draw:
    """Draw a part, a signal and a time."""
    ordered = sorted(parts)
    part = chance.choices(ordered, [weight_of(each) for each in ordered])[0]
    name = chance.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    return Draw(part, name, chance.uniform(*STOPPED_S) if name == "SIGSTOP" else 0.0)


class Killer:
    """Sends signals until it is stopped; afterwards no process is left stopped."""

    def __init__(
        self, stack: Stack, progress: Progress, chance: random.Random, every_s: float, threads: Threads
    ) -> None:
        self._stack, self._progress, self._chance, self._every_s = stack, progress, chance, every_s
        self._stop = threading.Event()
        self._stopped: dict[Recorded, float] = {}
        self._thread = threads.make("the sender of signals", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no more signals, and let stopped processes go on."""
        self._stop.set()
        self._thread.join(60)
        self._resume(float("inf"))

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(min(self._chance.expovariate(1 / self._every_s), 5 * self._every_s)):
            self._resume(time.monotonic())
            with contextlib.suppress(OSError, ValueError):  # the table of parts is being replaced
                self._signal(self._stack.table()["parts"])
            now = time.monotonic()
            self._progress.minutes, began = self._progress.minutes + (now - began) / 60, now

    def _signal(self, rows: Sequence[Mapping[str, Any]]) -> None:
        drawn = draw(self._chance, [row["name"] for row in rows])
        row = next(row for row in rows if row["name"] == drawn.part)
        process = Recorded(row["pid"] or 0, row["started_ticks"])
        if row["state"] not in ("ready", "starting") or process in self._stopped or not is_running(process):
            return  # it is down already
        os.kill(process.pid, getattr(signal, drawn.signal))
        with self._progress.lock:
            self._progress.signals[drawn.signal] += 1
            if drawn.signal == "SIGSTOP":
                self._stopped[process] = time.monotonic() + drawn.stopped_s
            else:
                self._progress.killed[drawn.part] += 1

    def _resume(self, now: float) -> None:
        for process in [each for each, until in self._stopped.items() if until <= now]:
            del self._stopped[process]
            if is_running(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
