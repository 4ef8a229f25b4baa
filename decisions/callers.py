"""Whose requests the evidence of a trigger came from, so that no caller carries it alone."""

from pydantic import Field

from contracts.vocabulary import Contract
from decisions.triggers import Outcome

MOST_CALLERS = 64
"""Callers that are counted one by one; those that come later are counted together."""
OTHERS = "*"


class CallerCount(Contract):
    """Requests of one caller.

    Attributes:
        bad: Of them, the bad ones.
        compared: Of the bad ones, those that the previous version answered well.
    """

    requests: int = 0
    bad: int = 0
    compared: int = 0


class CallerShares(Contract):
    """Requests by caller, since the first bad one."""

    known: dict[str, CallerCount] = Field(default_factory=dict)
    unknown: int = 0

    @property
    def total(self) -> CallerCount:
        """Return the requests of all known callers."""
        counts = self.known.values()
        return CallerCount(
            requests=sum(count.requests for count in counts),
            bad=sum(count.bad for count in counts),
            compared=sum(count.compared for count in counts),
        )

    @property
    def heaviest(self) -> CallerCount:
        """Return the caller with the most bad requests; of those with equally many, the one with fewer in all."""
        single = [count for name, count in self.known.items() if name != OTHERS]
        return max(single, key=lambda count: (count.bad, -count.requests), default=CallerCount())


def count_outcome(shares: CallerShares, outcome: Outcome) -> CallerShares:
    """Return the shares with one more request."""
    if outcome.caller is None:
        return shares.model_copy(update={"unknown": shares.unknown + 1})
    name = outcome.caller if outcome.caller in shares.known or len(shares.known) < MOST_CALLERS else OTHERS
    before = shares.known.get(name, CallerCount())
    after = CallerCount(
        requests=before.requests + 1,
        bad=before.bad + outcome.bad,
        compared=before.compared + outcome.compared,
    )
    return shares.model_copy(update={"known": {**shares.known, name: after}})
