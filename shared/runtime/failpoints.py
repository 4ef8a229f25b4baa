"""Kills the process at a named point, once: tests use it to show that a kill is safe at any moment."""

import os
import signal
from pathlib import Path

_armed: dict[str, Path] = {}


def arm(specification: str, folder: Path) -> None:
    """Arm failpoints: comma-separated names; a marker file in `folder` makes each fire only once."""
    _armed.clear()
    for name in filter(None, (part.strip() for part in specification.split(","))):
        _armed[name] = folder / f"failpoint-{name}.fired"


def failpoint(name: str, at: str = "") -> None:
    """Kill this process with SIGKILL if this point is armed and has not fired yet; write `at` to the marker file."""
    marker = _armed.get(name)
    if marker is None or marker.exists():
        return
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(at)
    os.kill(os.getpid(), signal.SIGKILL)
