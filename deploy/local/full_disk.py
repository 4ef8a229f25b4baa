"""Bring the message bus back after its disk was full, and keep a reserve on that disk.

NATS gives up each stream whose write has failed: it answers no write to it any more, also once there is space, until
the server is started again. Reads go on, and its liveness probe succeeds. So the program that keeps the server running
looks at its health, and starts it again as soon as there is space, which is at once while the reserve is there.
Needs the standard library only.
"""

import contextlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

RESERVE = "slipway-reserve"
"""A file in the bus's folder that has nothing but its size."""
RESERVE_BYTES = 32 * 1024 * 1024
ENOUGH_BYTES = 2 * RESERVE_BYTES
"""Free space with which the bus is started again, and beside which a new reserve is made."""
LOOK_EVERY_S = 2.0
_LOST_STREAM = "write error"
"""What `/healthz` answers of a stream that NATS has given up."""
_ANSWER_S = 3.0

Step = Literal["none", "reserve", "release", "restart"]


def plan(*, lost: bool, free_bytes: int, has_reserve: bool) -> Step:
    """Return what is to be done. Pure.

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


def look(monitoring_url: str, store: Path) -> str | None:
    """Return why the server must be started again, None if it need not; make or give up the reserve.

    Args:
        monitoring_url: its monitoring port.
        store: its `store_dir`.
    """
    problem = lost_stream(monitoring_url)
    reserve = store / RESERVE
    free_bytes = shutil.disk_usage(store).free
    step = plan(lost=problem is not None, free_bytes=free_bytes, has_reserve=has_reserve(reserve))
    if step == "reserve":
        make_reserve(reserve)
    if step == "release":
        reserve.unlink(missing_ok=True)
        return f"its disk is full, the reserve of {RESERVE_BYTES} bytes is given up, free space now: {problem}"
    return f"its disk was full, and has {free_bytes} bytes free: {problem}" if step == "restart" else None


def lost_stream(monitoring_url: str) -> str | None:
    """Return what the server says of a stream that it has given up; None if there is none, or it does not answer."""
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
