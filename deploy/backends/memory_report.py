"""Writes the peak memory of a model's processes beside its configuration, for server-manager.

Measured as proportional set size (PSS), so that shared pages are counted once; CPU memory only.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

NAME = "slipway-memory.json"
"""File in the folder of the model's configuration."""
EVERY_S = 10.0
GROWTH_RATIO = 1.02
"""Growth over the last written peak at which a new one is written."""


def start(folder: str, every_s: float = EVERY_S) -> None:
    """Measure this process and its descendants from now on, in a daemon thread.

    Args:
        folder: the folder of the model's configuration; empty for no measurement.
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
    """Replace the memory report in a folder; return whether it could be written."""
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
    """Return the total bytes of processes; 0 for an ended one."""
    return sum(map(_measure_one, pids))


def _measure_one(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def list_family(pid: int) -> list[int]:
    """Return a process and its descendants, nearest first."""
    family = [pid]
    for parent in family:  # grows
        for listing in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                family += [int(part) for part in listing.read_text(encoding="ascii").split()]
    return family
