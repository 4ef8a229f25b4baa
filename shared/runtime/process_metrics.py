"""Metrics of several processes as one: prometheus_client's multiprocess mode, in files that all of them write."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.runtime.scratch_dirs import ScratchDirs

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client learns, when it is imported, that metrics are shared, and where."""


def share_metrics(root: Path) -> None:
    """Make the metrics of all child processes of this process one. Call it before prometheus_client is imported.

    Args:
        root: holds one folder per host and process, which is emptied at start: counters begin at zero.
    """
    host = root / socket.gethostname()
    ScratchDirs(host).remove_stale()
    folder = host / f"{os.getpid()}-metrics"
    folder.mkdir(parents=True)
    os.environ[FOLDER] = str(folder)


def exposed_registry(own: "CollectorRegistry") -> "CollectorRegistry":
    """Return the registry that `/metrics` shows: that of this process, or one that adds up all processes."""
    if FOLDER not in os.environ:
        return own
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def identify_process(number: int) -> None:
    """Let this process write the files of a number, before it creates metrics; a later process continues its counts.

    By default the files are those of a process id, and every process that ends would leave its own behind.
    """
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget_process(number: int) -> None:
    """Remove the gauges of a process that has ended; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(number)  # type: ignore[no-untyped-call]
