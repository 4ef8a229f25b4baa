"""Decides which requests an engine's agent accepts: fencing by term, replay protection by sequence number."""

from dataclasses import dataclass
from typing import Final, Literal

from contracts.vocabulary import Contract
from services.server_manager.domain.records import Leader

MOST: Final = 2**53
"""Upper bound of terms and sequence numbers: integers below it are exact in JSON."""
HOLDERS_KEPT: Final = 1_000
"""Maximum processes with a remembered sequence number."""

TermCheck = Literal["current", "higher", "superseded"]


class AgentRequest(Contract):
    """The signed request of a process to an agent.

    Attributes:
        method: Full name of the gRPC method.
        instance: The addressed run of the agent; each start draws a new id.
        sequence: Rises with each request of a holder, against replays.
        holder: The requesting process.
        term: The holder's lease term.
        digest: SHA-256 of the request's bytes, hexadecimal.
    """

    method: str
    instance: str
    sequence: int
    holder: str
    term: int
    digest: str

    @property
    def leader(self) -> Leader:
        """The requesting process and its term."""
        return Leader(holder=self.holder, term=self.term)


def assess_term(highest: Leader | None, asked: Leader) -> TermCheck:
    """Return whether a term equals the highest one, is higher, or is superseded.

    Each term belongs to one process; from another process the highest term is superseded, too.
    """
    if highest is None or asked.term > highest.term:
        return "higher"
    return "current" if asked == highest else "superseded"


@dataclass
class Sequences:
    """The last sequence number of each process; the least recent process is dropped first."""

    _last: dict[str, int]

    def __init__(self) -> None:
        self._last = {}

    def take(self, holder: str, sequence: int) -> bool:
        """Return whether a number is higher than the process's last one; if so, store it."""
        if not 0 < sequence < MOST or sequence <= self._last.get(holder, 0):
            return False
        self._last.pop(holder, None)
        self._last[holder] = sequence
        while len(self._last) > HOLDERS_KEPT:
            del self._last[next(iter(self._last))]
        return True
