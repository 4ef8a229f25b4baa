"""Whose requests the evidence of a trigger came from, so that no caller carries it alone."""

from pydantic import Field

from contracts.vocabulary import Contract
from decisions.triggers import Outcome

MOST_CALLERS = 64
"""Callers that are counted one by one, those with the most bad requests; others are counted together."""
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


def count_outcome(shares: CallerShares, outcome: Outcome, name: str | None) -> CallerShares:
    """Return the shares with one more request of a caller, or of a team; None if it is not known whose it is.

    Who comes later with a bad request takes the place of the one that had the fewest: among the others, one caller with
    many bad requests would be none that is left out as the heaviest.
    """
    if name is None:
        return shares.model_copy(update={"unknown": shares.unknown + 1})
    known = dict(shares.known)
    if name not in known and len(known.keys() - {OTHERS}) >= MOST_CALLERS:
        if outcome.bad:
            least = min(known.keys() - {OTHERS}, key=lambda each: (known[each].bad, known[each].requests, each))
            known[OTHERS] = _add(known.get(OTHERS, CallerCount()), known.pop(least))
        else:
            name = OTHERS
    request = CallerCount(requests=1, bad=int(outcome.bad), compared=int(outcome.compared))
    known[name] = _add(known.get(name, CallerCount()), request)
    return shares.model_copy(update={"known": known})


def _add(first: CallerCount, second: CallerCount) -> CallerCount:
    return CallerCount(
        requests=first.requests + second.requests,
        bad=first.bad + second.bad,
        compared=first.compared + second.compared,
    )
