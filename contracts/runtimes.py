"""The runtimes of a serving fleet and their targets, as server-manager last saw them: `servers/<fleet>.runtimes`."""

from __future__ import annotations

from typing import Final, Literal

from .vocabulary import Contract, Instant, Runtime, Target

DEFAULT_RUNTIME: Final = "default"
"""Name of the runtime that serves versions whose settings name none."""
RUNTIMES_SUFFIX: Final = ".runtimes"
"""Ending of the key, after the name of the fleet."""
LEADER_SUFFIX: Final = ".leader"
"""Ending of the key of the fleet's lease, in the same bucket: the server-manager that runs renews it every 2 s."""
EndpointState = Literal["serving", "draining", "drained", "silent", "fenced"]
"""`silent` does not answer server-manager, `fenced` answers only a process with a higher term; both may still serve."""


class RunningTarget(Contract):
    """A target on an endpoint.

    Attributes:
        phase: How far it is: `loading`, `ready`, `failed`, …
        runtime: What was there when it was loaded; None if that is not known.
        memory_bytes: What it reserves.
        measured_bytes: The most memory that these files were seen to take on an endpoint; 0 if not known.
        given_up: It cannot be loaded: its files are refused, or five of its loads failed on this endpoint.
    """

    target: Target
    phase: str
    runtime: Runtime | None = None
    memory_bytes: int = 0
    measured_bytes: int = 0
    given_up: bool = False


class FleetRuntime(Contract):
    """An endpoint of a fleet that serves a runtime, and its targets; a runtime may have several.

    Attributes:
        name: `default`, or the name that serving settings use.
        endpoint: How gateways reach it, `host:port`.
        answers: Whether it answered when it was last asked.
        runtime: Engine, server and digest; None if not known.
        endpoint_name: The endpoint's name in server-manager; empty in records of an earlier release.
        reserved_bytes: Bytes reserved by its targets.
        memory_budget_bytes: Limit of reservations, alone or with other endpoints; 0 if not known.
        free_bytes: Unreserved bytes of the budget.
        copies: Names of targets that it holds, or loads, while another endpoint serves them.
        drained: Whether it takes nothing new, and is to be empty.
        drained_by: Author of the drain.
        drain_reason: The reason.
        waits_for: The obstacle to emptying it that needs an operator, if any.
        fenced: Whether its agent refuses the process that leads, because another one has a higher term.
        since: Start of its state, by the clock of the process that first saw it; None if not known.
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
        """The endpoint's state in server-manager; gateways may still eject a serving endpoint."""
        if not self.answers:
            return "fenced" if self.fenced else "silent"
        if not self.drained:
            return "serving"
        return "draining" if self.targets or self.copies else "drained"


class FleetRuntimes(Contract):
    """All endpoints of a fleet, those of the default runtime among them."""

    runtimes: tuple[FleetRuntime, ...] = ()
