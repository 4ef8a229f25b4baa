"""Writes the memory use of a model's processes beside its configuration, for server-manager to read.

The share of each process (PSS) counts, so that pages which several models share are counted once. It is the highest
that was seen, because a cache fills as it is used. Only memory of the processor is measured.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

NAME = "slipway-memory.json"
"""Name of the file in the folder of the model's configuration."""
EVERY_S = 10.0
GROWTH_RATIO = 1.02
"""A peak is written once it is so much higher than the one before."""


def start(folder: str, every_s: float = EVERY_S) -> None:
    """Measure this process and all below it from now on, in a thread that ends with the process.

    Args:
        folder: the folder of the model's configuration; empty: nothing is measured.
        every_s: seconds between two measurements.
    """
    if not folder:
        return
    threading.Thread(target=_report, args=(Path(folder), every_s), name="memory", daemon=True).start()


def _report(folder: Path, every_s: float) -> None:
    written = 0
    while True:
        time.sleep(every_s)
        taken = measure(list_family(os.getpid()))
        if taken > written * GROWTH_RATIO and write(folder, taken):
            written = taken


def write(folder: Path, peak_bytes: int) -> bool:
    """Replace the memory report in a folder; return False if it cannot be written, for example to a missing folder."""
    partial = folder / f"{NAME}.{os.getpid()}"
    try:
        partial.write_text(json.dumps({"peak_bytes": peak_bytes}), encoding="ascii")
        partial.replace(folder / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    return True


def measure(pids: Iterable[int]) -> int:
    """Return the bytes that processes take together; one that has ended takes none."""
    return sum(map(_measure_one, pids))


def _measure_one(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def list_family(pid: int) -> list[int]:
    """Return a process and every descendant of it."""
    family = [pid]
    for parent in family:  # grows
        for listing in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                family += [int(part) for part in listing.read_text(encoding="ascii").split()]
    return family
