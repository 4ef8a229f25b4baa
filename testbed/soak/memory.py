"""The memory of each part of a stack over time, and the rule by which it counts as flat."""

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from shared.runtime.clock import SystemClock
from testbed.soak.threads import Threads
from testbed.stack import Stack

EVERY_S = 10.0
WARM_S = 15.0
"""Samples of a younger process do not count: it still imports and connects."""
EARLY, LATE = (0.15, 0.45), (0.70, 1.0)
"""The parts of the run that are compared."""
FEWEST = 3
"""Samples of a part in each of them; with fewer it is not judged."""
SERVICE_LIMIT = (1.25, 40.0)
SERVER_LIMIT = (1.5, 200.0)
"""Ratio and MiB by which the later median may exceed the earlier one: of a service, and of NATS, the store and Triton,
which cache what they hold."""
SERVERS = ("nats", "s3", "triton")


@dataclass(frozen=True)
class Sample:
    """Resident memory of a part, with its workers if it is a gateway, at a time since the start of the session."""

    at_s: float
    part: str
    age_s: float
    mib: float


@dataclass(frozen=True)
class Growth:
    """The medians that were compared."""

    part: str
    early_mib: float
    late_mib: float

    @property
    def limit_mib(self) -> float:
        """The highest later median that counts as flat."""
        ratio, more = SERVER_LIMIT if self.part.partition("-")[0] in SERVERS else SERVICE_LIMIT
        return self.early_mib * ratio + more


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Return how the memory of each part that was sampled often enough has grown.

    Most processes are killed before they are old. What grows with the installation (records, routes, the log) grows in
    each new process of a part as well, so the samples of all its processes count; what leaks in one shows in those
    that lived longest.
    """
    warm = [each for each in samples if each.age_s >= WARM_S]
    whole = max((each.at_s for each in samples), default=0.0)
    grown = []
    for part in sorted({each.part for each in warm}):
        early, late = (
            [each.mib for each in warm if each.part == part and low * whole <= each.at_s <= high * whole]
            for low, high in (EARLY, LATE)
        )
        if min(len(early), len(late)) >= FEWEST:
            grown.append(Growth(part, median(early), median(late)))
    return grown


class Sampler:
    """Reads the memory of all parts until it is stopped, and keeps it in a file."""

    def __init__(self, stack: Stack, file: Path, threads: Threads) -> None:
        self._stack, self._file = stack, file
        self._stop = threading.Event()
        self._thread = threads.make("the reader of memory", self._run)
        self.samples: list[Sample] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        began = time.monotonic()
        with self._file.open("a") as file:
            while not self._stop.wait(EVERY_S):
                for sample in self._read(time.monotonic() - began):
                    self.samples.append(sample)
                    print(json.dumps(asdict(sample)), file=file, flush=True)

    def _read(self, at_s: float) -> list[Sample]:
        samples, rows = [], []
        with contextlib.suppress(OSError, ValueError):
            rows = self._stack.table()["parts"]
        for row in rows:
            with contextlib.suppress(psutil.Error, TypeError):
                process = psutil.Process(row["pid"])
                age_s = SystemClock().now().timestamp() - process.create_time()
                family = [process, *process.children()] if row["name"].startswith("gateway") else [process]
                mib = sum(each.memory_info().rss for each in family) / 2**20
                samples.append(Sample(round(at_s, 1), row["name"], round(age_s, 1), round(mib, 1)))
        return samples
