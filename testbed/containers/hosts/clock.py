"""The clocks of host b, ahead of all others by a library that its programs load (Debian's libfaketime).

Time namespaces do not cover the time of day. NATS is a Go program that loads no library, and Triton is left as it is:
what compares times are the services.
"""

import json
import time
from pathlib import Path

from testbed.containers import engine
from testbed.containers.hosts.members import host_of

FOLDER = Path("/usr/lib/x86_64-linux-gnu/faketime")
LIBRARY = "libfaketime.so.1"
INSIDE = "/usr/lib/faketime"
OWN_CLOCK = frozenset({"nats-b", "triton-b"})
"""Containers of host b whose clock stays right."""
PROGRAM = "import time; print(time.time())"


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


def ahead_of_here_s(container: str) -> float:
    """Return by how many seconds the clock of a container is ahead of this machine's."""
    shown = engine.podman("exec", container, "python", "-c", PROGRAM)
    return float(shown) - time.time()  # noqa: TID251 - the time of day is what is compared
