"""The clocks of host b, ahead of all others by a library that its programs load (Debian's libfaketime).

Time namespaces do not cover the time of day. NATS is a Go program that loads no library, and Triton is left as it is:
what compares times are the services.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.containers import engine
from testbed.containers.hosts.members import host_of

FOLDER = Path("/usr/lib/x86_64-linux-gnu/faketime")
LIBRARY = "libfaketime.so.1"
INSIDE = "/usr/lib/faketime"
OWN_CLOCK = frozenset({"nats-b", "triton-b"})
"""Containers of host b whose clock stays right."""
PROGRAM = "import time; print(time.time())"
READINGS = 3
"""How often a clock is read: each reading takes as long as podman and Python do, and all of them must agree."""
TOLERANCE_S = 1.0


def override(services: list[str], ahead_s: float) -> str:
    """Return a compose file (JSON, which is YAML) that sets the clocks of host b's services ahead."""
    settings = {
        "environment": {
            "LD_PRELOAD": f"{INSIDE}/{LIBRARY}",
            "FAKETIME": f"{ahead_s:+g}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        "volumes": [f"{FOLDER}:{INSIDE}:ro"],
    }
    ahead = [name for name in services if host_of(name) == "b" and name not in OWN_CLOCK]
    return json.dumps({"services": dict.fromkeys(ahead, settings)})


@dataclass(frozen=True)
class Ahead:
    """By how many seconds a clock is ahead of this machine's, at least and at most."""

    least_s: float
    most_s: float

    def __str__(self) -> str:
        """Return both, in words."""
        return f"{self.least_s:.1f} to {self.most_s:.1f} s"

    def may_be(self, ahead_s: float) -> bool:
        """Return whether the clock may be ahead by so many seconds."""
        return self.least_s - TOLERANCE_S <= ahead_s <= self.most_s + TOLERANCE_S


def compare(readings: Sequence[tuple[float, float, float]]) -> Ahead:
    """Return by how much a clock is ahead, by readings of it.

    Args:
        readings: For each the time here before it, the time that the clock showed, and the time here after it.
    """
    return Ahead(
        max(shown - after for _, shown, after in readings), min(shown - before for before, shown, _ in readings)
    )


def ahead_of_here(container: str) -> Ahead:
    """Return by how many seconds the clock of a container is ahead of this machine's."""
    return compare([_read(container) for _ in range(READINGS)])


def _read(container: str) -> tuple[float, float, float]:
    before = time.time()  # noqa: TID251 - the time of day is what is compared
    shown = float(engine.podman("exec", container, "python", "-c", PROGRAM))
    return before, shown, time.time()  # noqa: TID251 - the same
