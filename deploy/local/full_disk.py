"""Bring the message bus back after its disk was full, and keep a reserve on that disk.

NATS gives up each stream whose write has failed: it answers no write to it any more, also once there is space, until
the server is started again. Reads go on, and its liveness probe succeeds. So the program that keeps the server running
looks at its health, and starts it again as soon as there is space, which is at once while the reserve is there. Where
writes fail again after a restart, the next one follows after `DELAY_S`; that of a container by its restart policy.
Needs the standard library only.
"""

import contextlib
import dataclasses
import http.client
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

RESERVE = "slipway-reserve"
"""A file in the bus's folder that has nothing but its size."""
RESERVE_BYTES = 32 * 1024 * 1024
ENOUGH_BYTES = 2 * RESERVE_BYTES
"""Free space with which the bus is started again, and beside which a new reserve is made."""
LOOK_EVERY_S = 2.0
DELAY_S = 120.0
"""Time from a restart of a server to its next one, if a write fails again."""
BACK_S = 30.0
"""Time in which a server that was started again should be ready; of a cluster the next one waits so long at most."""
_LOST_STREAM = "write error"
"""What `/healthz` answers of a stream that NATS has given up."""
_ANSWER_S = 3.0

Step = Literal["none", "reserve", "release", "restart"]


def plan(*, lost: bool, free_bytes: int, has_reserve: bool) -> Step:
    """Return the next action. Pure.

    Args:
        lost: the server has given up a stream.
        free_bytes: space on the disk of its store.
        has_reserve: the reserve is there.
    """
    if not lost:
        return "reserve" if not has_reserve and free_bytes >= RESERVE_BYTES + ENOUGH_BYTES else "none"
    if free_bytes >= ENOUGH_BYTES:
        return "restart"
    return "release" if has_reserve else "none"


@dataclasses.dataclass
class Restarts:
    """When a server was started again last, by a monotonic clock, in seconds.

    A write error may have causes that no restart removes: a quota, a bad sector, a store that is mounted read-only.
    Each restart ends connections and loses the streams in memory.
    """

    last_at: float = -math.inf


@dataclasses.dataclass(frozen=True)
class Turn:
    """The last restarted server of a cluster: the next one waits until it is back, for `BACK_S` at most.

    A server that cannot start on a full disk must not block the restarts that would free the disk.

    Attributes:
        server: its name; empty before the first one.
        restarts: its number of restarts until then.
        at: monotonic time of the restart, in seconds.
    """

    server: str = ""
    restarts: int = 0
    at: float = -math.inf

    def is_free(self, servers: Mapping[str, tuple[str, int]], now: float) -> bool:
        """Return whether another one may be started again; `servers` are states and counts of restarts by name."""
        if not self.server or now - self.at >= BACK_S:
            return True
        state, restarts = servers[self.server]
        return state == "ready" and restarts > self.restarts


def look(monitoring_url: str, store: Path, restarts: Restarts) -> str | None:
    """Return why the server must be started again, None if it need not; make or give up the reserve.

    Args:
        monitoring_url: its monitoring port.
        store: its `store_dir`.
        restarts: when it was started again last; now, if it must be.
    """
    problem = lost_stream(monitoring_url)
    now = time.monotonic()
    if problem is not None and now < restarts.last_at + DELAY_S:
        return None
    reserve = store / RESERVE
    free_bytes = space_of(os.statvfs(store))
    step = plan(lost=problem is not None, free_bytes=free_bytes, has_reserve=has_reserve(reserve))
    if step == "reserve":
        make_reserve(reserve)
    if step in ("none", "reserve"):
        return None
    restarts.last_at = now
    if step == "release":
        reserve.unlink(missing_ok=True)
        disk = f"its disk is full, the reserve of {RESERVE_BYTES} bytes is given up, free space now"
    else:
        disk = f"a write failed, and its disk has {free_bytes} bytes free"
    advice = "look for a quota, a disk without inodes, I/O errors or a read-only mount"
    return f"{disk}: {problem} (if a write fails again, {advice}; the next restart follows after {DELAY_S:.0f} s)"


def space_of(status: os.statvfs_result) -> int:
    """Return the free space of a disk in bytes: none where no inode is left, as new blocks need new files."""
    has_inodes = status.f_favail > 0 or status.f_files == 0  # some file systems count none
    return status.f_bavail * status.f_frsize if has_inodes else 0


def lost_stream(monitoring_url: str) -> str | None:
    """Return the server's report of an offline stream; None if there is none, or it does not answer."""
    try:
        text = _read_problem(f"{monitoring_url}/healthz")
    except (OSError, http.client.HTTPException):  # the latter: an answer that broke off, as of a server that is killed
        return None
    return text[:500] if _LOST_STREAM in text else None


def _read_problem(url: str) -> str:
    """Return the text of an answer that is no success; an empty one for a success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=_ANSWER_S).close()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode(errors="replace")
    return ""


def has_reserve(path: Path) -> bool:
    """Return whether the reserve is there, with all its space."""
    try:
        return path.stat().st_size >= RESERVE_BYTES
    except FileNotFoundError:
        return False


def make_reserve(path: Path) -> None:
    """Take the space of the reserve; without it, nothing is left behind.

    It has its name only once it is complete: a process that is killed in between leaves a partial file, which the next
    one takes over.
    """
    if has_reserve(path):
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
    finally:
        os.close(descriptor)
