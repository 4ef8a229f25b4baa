"""The runtimes of a serving fleet and their targets, as server-manager last saw them: `servers/<fleet>.runtimes`."""

from __future__ import annotations

from typing import Final

from .vocabulary import Contract, Runtime, Target

DEFAULT_RUNTIME: Final = "default"
"""Name of the runtime that serves versions whose settings name none."""
RUNTIMES_SUFFIX: Final = ".runtimes"
"""Ending of the key, after the name of the fleet."""


class RunningTarget(Contract):
    """A target on an endpoint. `runtime` is what was there when it was loaded; None if that is not known."""

    target: Target
    phase: str
    runtime: Runtime | None = None


class FleetRuntime(Contract):
    """A runtime of a fleet: the endpoint that serves it, and its targets.

    Attributes:
        name: `default`, or the name that serving settings use.
        endpoint: How gateways reach it, `host:port`.
        answers: Whether it answered when it was last asked.
        runtime: Engine, server and digest; None if not known.
    """

    name: str
    endpoint: str
    answers: bool
    runtime: Runtime | None = None
    targets: tuple[RunningTarget, ...] = ()


class FleetRuntimes(Contract):
    """All runtimes of a fleet."""

    runtimes: tuple[FleetRuntime, ...] = ()
