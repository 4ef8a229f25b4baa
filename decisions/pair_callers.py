"""Whose pairs the evidence of a trigger comes from: no caller carries it alone, unless it has most of the traffic.

A caller that knows a request which only one of the two versions answers badly can repeat it. So of each caller only so
many pairs count against the target, beyond those that count for it, as are half of what confirms an alert. A pair is
left out only where it would have raised the evidence, by what was known before its outcome: under the null hypothesis
the evidence only becomes smaller, so that its guarantees hold. Pairs that speak for the target always count.
"""

import math
from functools import lru_cache

from pydantic import Field

from contracts.vocabulary import Contract
from decisions.evidence import (
    EQUAL_SHARE,
    Count,
    EDetector,
    EProcess,
    observe_detector,
    observe_process,
    resting_log_e,
    resting_sums,
)

MOST_CALLERS = 64
"""Callers that are known; above it the one with the least against the target is forgotten."""
RECENT_PAIRS = 128
"""Pairs by which shares of the traffic are estimated: with more, all counts are halved."""
CLEAR_SIGMAS = 3.0
"""Standard deviations by which a caller's share of these is above a half before it counts as most of the traffic."""


class CallerPairs(Contract):
    """Pairs of one caller.

    Attributes:
        recent: All of them, lately.
        net: Those bad on the target only, less those bad on the other version only, that the evidence counts.
    """

    recent: Count = 0
    net: int = 0


class PairCallers(Contract):
    """Whose pairs a test has: those of each caller that is known, and `recent` of all."""

    known: dict[str, CallerPairs] = Field(default_factory=dict)
    recent: Count = 0


@lru_cache(maxsize=256)
def pairs_to_confirm(alpha: float, *, canary: bool) -> int:
    """Return how many pairs, bad on the target only, confirm an alert.

    They begin where evidence rests: an e-process, a canary's, at zero, an e-detector above it; so a canary needs more.
    """
    process, pairs = EProcess(), 0
    detector = EDetector(sums=resting_sums(EQUAL_SHARE), log_e=resting_log_e(EQUAL_SHARE))
    while pairs == 0 or (process if canary else detector).log_e < -math.log(alpha):
        process = observe_process(process, EQUAL_SHARE, [True])
        detector = observe_detector(detector, EQUAL_SHARE, [True])
        pairs += 1
    return pairs


def most_of_one_caller(alpha: float, *, canary: bool) -> int:
    """Return how many net pairs of one caller count against a target: two callers can confirm, and one cannot."""
    return math.ceil(pairs_to_confirm(alpha, canary=canary) / 2)


def note_pair(callers: PairCallers, caller: str | None) -> PairCallers:
    """Return the callers with one more pair; None is a caller without a name."""
    known, recent = callers.known, callers.recent
    if recent >= RECENT_PAIRS:
        halved = {name: pairs.model_copy(update={"recent": pairs.recent // 2}) for name, pairs in known.items()}
        known, recent = {name: pairs for name, pairs in halved.items() if pairs.recent or pairs.net > 0}, recent // 2
    if caller is not None:
        if caller not in known and len(known) >= MOST_CALLERS:
            least = min(known, key=lambda name: (known[name].net, known[name].recent))
            known = {name: pairs for name, pairs in known.items() if name != least}
        before = known.get(caller, CallerPairs())
        known = {**known, caller: before.model_copy(update={"recent": before.recent + 1})}
    return PairCallers(known=known, recent=recent + 1)


def is_full(callers: PairCallers, caller: str, alpha: float, *, canary: bool) -> bool:
    """Return whether a caller has its part in the evidence: no more of its pairs count against the target.

    Not for one with clearly more than half of the pairs, which are drawn from all requests alike: none may be left.
    """
    own, total = callers.known[caller], callers.recent
    has_most = 2 * own.recent - total >= CLEAR_SIGMAS * math.sqrt(total)
    return own.net >= most_of_one_caller(alpha, canary=canary) and not has_most


def note_discordant(callers: PairCallers, caller: str, *, target: bool) -> PairCallers:
    """Return the callers with one more pair that the evidence counts."""
    before = callers.known[caller]
    after = before.model_copy(update={"net": before.net + (1 if target else -1)})
    return callers.model_copy(update={"known": {**callers.known, caller: after}})


def without_net(callers: PairCallers) -> PairCallers:
    """Return the callers once the evidence is at rest: what they had in it is outweighed."""
    known = {name: pairs.model_copy(update={"net": 0}) for name, pairs in callers.known.items()}
    return callers.model_copy(update={"known": known})
