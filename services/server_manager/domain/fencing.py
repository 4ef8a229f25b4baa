"""Decides which requests an engine's agent accepts: terms only rise, and no request counts twice."""

from dataclasses import dataclass
from typing import Final, Literal

from contracts.vocabulary import Contract
from services.server_manager.domain.records import Leader

MOST: Final = 2**53
"""Terms and sequence numbers are below it: what JSON carries exactly everywhere."""
HOLDERS_KEPT: Final = 1_000
"""Processes whose last sequence number an agent remembers."""

TermCheck = Literal["current", "higher", "superseded"]


class AgentRequest(Contract):
    """The signed request of a process to an agent.

    Attributes:
        method: Full name of the gRPC method.
        instance: The run of the agent that it is for: each start draws another one.
        sequence: Rises with each request of a holder, so that none counts twice.
        holder: The process.
        term: The term under which it acts.
        digest: SHA-256 of the request's bytes, in hexadecimal digits.
    """

    method: str
    instance: str
    sequence: int
    holder: str
    term: int
    digest: str

    @property
    def leader(self) -> Leader:
        """The process and its term."""
        return Leader(holder=self.holder, term=self.term)


def assess_term(highest: Leader | None, asked: Leader) -> TermCheck:
    """Return whether a term is the highest seen so far, a higher one, or superseded.

    A term belongs to one process: the same one from another process is superseded, too.
    """
    if highest is None or asked.term > highest.term:
        return "higher"
    return "current" if asked == highest else "superseded"


@dataclass
class Sequences:
    """The last sequence number of each requesting process; the least recent process is forgotten first."""

    _last: dict[str, int]

    def __init__(self) -> None:
        self._last = {}

    def take(self, holder: str, sequence: int) -> bool:
        """Return whether a number is new for its process, and note it if so."""
        if not 0 < sequence < MOST or sequence <= self._last.get(holder, 0):
            return False
        self._last.pop(holder, None)
        self._last[holder] = sequence
        while len(self._last) > HOLDERS_KEPT:
            del self._last[next(iter(self._last))]
        return True
