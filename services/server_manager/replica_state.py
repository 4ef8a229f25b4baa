"""The state of one replica (a target on an endpoint) in the leading process."""

import asyncio
from dataclasses import dataclass, field

from contracts.codes import Code
from contracts.vocabulary import Digest, Runtime
from services.server_manager.domain.reconcile import Phase
from shared.errors import SlipwayError, Transient, translate

SUSPICIONS = 2
"""Consecutive failed probes after which a replica is DEAD; after `engine_dead` it is at once."""


@dataclass
class ReplicaState:
    """State of one replica; times are monotonic seconds; `listed`: its endpoint has listed it since the load."""

    name: str
    endpoint: str
    digest: Digest
    memory_bytes: int
    phase: Phase
    since: float
    listed: bool = False
    failures: int = 0
    code: Code | None = None
    reason: str = ""
    hopeless: bool = False
    suspicions: int = 0
    probed: float | None = None
    unneeded: float | None = None
    token: str = ""
    ran_by: Runtime | None = None
    work: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Endpoint and target name."""
        return self.endpoint, self.name

    def note(self, error: SlipwayError | None = None) -> None:
        """Record a successful probe, with the remaining error (`logprobs_differ`), if any."""
        self.suspicions, self.hopeless = 0, False
        self.code, self.reason = (error.code, error.reason) if error is not None else (None, "")


def as_ours(error: Exception) -> SlipwayError:
    """Return the SlipwayError for an error of a load or probe; `load_failed` for an unknown one."""
    return translate(error) or Transient("load_failed", f"{type(error).__name__}: {error}")
