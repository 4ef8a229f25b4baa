"""Combined metrics of several processes: prometheus_client's multiprocess mode, with shared files."""

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The folder of shared metrics; prometheus_client reads this variable at import."""
_LOCK = "lock"
_held: list[IO[bytes]] = []
"""The lock of this process's folder, inherited by its children, so free once the last of them has ended."""


def share_metrics(root: Path) -> None:
    """Enable combined metrics for this process and its children. Call it before prometheus_client is imported.

    Args:
        root: Parent of one folder per host and process; unused ones are removed.
    """
    host = root / socket.gethostname()
    host.mkdir(parents=True, exist_ok=True)
    with (root / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # none is removed between its creation and its own lock
        _remove_unused(root)
        host.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", suffix="-metrics", dir=host))
        own = (folder / _LOCK).open("ab")
        fcntl.flock(own, fcntl.LOCK_EX)
        _held.append(own)
    os.environ[FOLDER] = str(folder)


def _remove_unused(root: Path) -> None:
    for folder in root.glob("*/*-metrics"):
        if not _is_in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for host in root.iterdir():
        with contextlib.suppress(OSError):  # it is not empty, or no folder
            host.rmdir()


def _is_in_use(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder; also True if the lock cannot be tried."""
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def exposed_registry(own: "CollectorRegistry") -> "CollectorRegistry":
    """Return the registry for `/metrics`: this process's, or the sum over all processes."""
    if FOLDER not in os.environ:
        return own
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(_SharedMetrics())
    return registry


class _SharedMetrics:
    """The metrics of all processes, added up on request; a registry needs a collector that can be hashed."""

    def collect(self) -> "Iterable[Metric]":
        return _merge("*.db")


def _merge(pattern: str) -> "Iterable[Metric]":
    """Return the metrics in the files of a pattern; an empty file belongs to a starting process."""
    from prometheus_client.multiprocess import MultiProcessCollector

    files = [path for path in Path(os.environ[FOLDER]).glob(pattern) if _has_content(path)]
    return MultiProcessCollector.merge([str(path) for path in files])  # type: ignore[no-untyped-call,no-any-return]


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def sum_live_gauges() -> dict[str, float] | None:
    """Return the sums over all processes of gauges without labels in mode `livesum`; None without shared metrics."""
    if FOLDER not in os.environ:
        return None
    samples = (sample for metric in _merge("gauge_livesum_*.db") for sample in metric.samples)
    return {sample.name: sample.value for sample in samples if not sample.labels}


def identify_process(number: int) -> None:
    """Write this process's metrics to the files of a number, which a later process continues; call it before any exist.

    By default every process would leave files named after its pid.
    """
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget_process(number: int) -> None:
    """Remove the gauges of a process that has ended; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(number)  # type: ignore[no-untyped-call]
