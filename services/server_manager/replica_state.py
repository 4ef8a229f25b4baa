"""The state of one replica (a target on an endpoint) in the leading process."""

import asyncio
from dataclasses import dataclass, field

from contracts.codes import Code
from contracts.vocabulary import Digest, Runtime
from services.server_manager.domain.reconcile import Phase
from shared.errors import SlipwayError, Transient, translate

SUSPICIONS = 2
"""Silent probes in a row after which a target is taken for dead; an engine that says so itself is dead at once."""


@dataclass
class ReplicaState:
    """One replica: its phase, since when (monotonic seconds), and whether its endpoint has listed it since its load."""

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
        """Its endpoint and its name."""
        return self.endpoint, self.name

    def note(self, error: SlipwayError | None = None) -> None:
        """Record that the replica generated, with the error that still applies, if any."""
        self.suspicions, self.hopeless = 0, False
        self.code, self.reason = (error.code, error.reason) if error is not None else (None, "")


def as_ours(error: Exception) -> SlipwayError:
    """Return the SlipwayError for an error of a load or probe; `load_failed` for an unknown one."""
    return translate(error) or Transient("load_failed", f"{type(error).__name__}: {error}")
