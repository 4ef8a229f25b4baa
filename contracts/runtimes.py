"""Endpoints of a serving fleet and their targets, recorded by server-manager: `servers/<fleet>.runtimes`."""

from __future__ import annotations

from typing import Final, Literal

from .vocabulary import Contract, Instant, Runtime, Target

DEFAULT_RUNTIME: Final = "default"
"""Name of the runtime for versions without a runtime in their settings."""
RUNTIMES_SUFFIX: Final = ".runtimes"
"""Suffix of the key after the fleet's name."""
LEADER_SUFFIX: Final = ".leader"
"""Key suffix of the fleet's lease in the same bucket, renewed every 2 s by the leading server-manager."""
EndpointState = Literal["serving", "draining", "drained", "silent", "fenced"]
"""`silent`: does not answer server-manager. `fenced`: answers a process with a higher term only. Both may serve."""


class RunningTarget(Contract):
    """A target on an endpoint.

    Attributes:
        phase: `loading`, `ready`, `failed`, …
        runtime: Runtime of the endpoint when it was loaded; None if unknown.
        memory_bytes: Reserved memory.
        measured_bytes: Largest memory use measured for these files; 0 if unknown.
        given_up: Loading was abandoned: the files are refused, or five loads failed on this endpoint.
    """

    target: Target
    phase: str
    runtime: Runtime | None = None
    memory_bytes: int = 0
    measured_bytes: int = 0
    given_up: bool = False


class FleetRuntime(Contract):
    """An endpoint of a fleet and its targets; several endpoints may have the same runtime.

    Attributes:
        name: Name of the runtime in serving settings, or `default`.
        endpoint: Address for gateways, `host:port`.
        answers: Whether it answered the last request.
        runtime: Engine, server and digest; None if unknown.
        endpoint_name: Name in server-manager.
        reserved_bytes: Memory reserved by its targets.
        memory_budget_bytes: Limit of reservations, possibly shared with other endpoints; 0 if unknown.
        free_bytes: Unreserved memory of the budget.
        copies: Names of targets that it holds or loads while another endpoint serves them.
        drained: Whether it gets no new targets and is to be emptied.
        drained_by, drain_reason: Author and reason of the drain.
        waits_for: Obstacle to emptying it that an operator must remove; empty for none.
        fenced: Whether its agent refuses the leading process because another process has a higher term.
        since: Begin of its state by the clock of the first observer; None if unknown.
    """

    name: str
    endpoint: str
    answers: bool
    runtime: Runtime | None = None
    targets: tuple[RunningTarget, ...] = ()
    endpoint_name: str = ""
    reserved_bytes: int = 0
    memory_budget_bytes: int = 0
    free_bytes: int = 0
    copies: tuple[str, ...] = ()
    drained: bool = False
    drained_by: str = ""
    drain_reason: str = ""
    waits_for: str = ""
    fenced: bool = False
    since: Instant | None = None

    @property
    def state(self) -> EndpointState:
        """Return the endpoint's state in server-manager; gateways may eject a serving endpoint."""
        if not self.answers:
            return "fenced" if self.fenced else "silent"
        if not self.drained:
            return "serving"
        return "draining" if self.targets or self.copies else "drained"


class FleetRuntimes(Contract):
    """All endpoints of a fleet."""

    runtimes: tuple[FleetRuntime, ...] = ()
