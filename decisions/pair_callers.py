"""Whose pairs the evidence of a trigger comes from: no caller carries it alone, unless it has most of the traffic.

A caller that knows a request which only one of the two versions answers badly can repeat it. So of each caller only so
many pairs count against the target, beyond those that count for it, as are half of what confirms an alert, until the
pairs of the others are half of that evidence by themselves: an e-process of these, left out ones included. A pair is
left out only where it would have raised the evidence, by what was known before its outcome: under the null hypothesis
the evidence only becomes smaller, so that its guarantees hold. Pairs that speak for the target always count, and never
allow their caller more than its part: the sums of an e-detector forget them, and so does `net`, which is never below 0.
A caller is a key, and besides a team with all its keys: a pair is left out that is over the part of either.
"""

import math
from collections.abc import Sequence
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
    process_log_e,
    resting_log_e,
    resting_sums,
)

MOST_CALLERS = 64
"""Callers that are known; above it the one with the least against the target is forgotten."""
RECENT_PAIRS = 128
"""Pairs by which shares of the traffic are estimated, of half as many at least: with more, all counts are halved."""
RECENT_DIFFERING = 256
"""Pairs that differ by which the other callers are judged: with more, all counts are halved."""
LARGEST_ALPHA = 0.02
"""Pairs are judged at no higher level: there, pairs that one caller alternates confirm with less than its part."""
CLEAR_SIGMAS = 3.0
"""Standard deviations by which a caller's share of these is above a half before it counts as most of the traffic."""


class CallerPairs(Contract):
    """Pairs of one caller.

    Attributes:
        recent: All of them, lately.
        net: Those that count, bad on the target only, less those bad on the other version only; never less than 0.
        target: Those bad on the target only since the evidence was at rest, with those that are left out.
        other: Those bad on the other version only since then.
    """

    recent: Count = 0
    net: Count = 0
    target: Count = 0
    other: Count = 0


class PairCallers(Contract):
    """Whose pairs a test has: those of each caller that is known; `recent`, `target` and `other` of all.

    Of a caller that is forgotten, `other` is kept and `target` is not: when it returns, it is no other caller. It is in
    `forgotten`: many callers have few pairs each, and show something together (`decisions.pair_shares`).
    """

    known: dict[str, CallerPairs] = Field(default_factory=dict)
    recent: Count = 0
    target: Count = 0
    other: Count = 0
    forgotten: Count = 0


def needed_log_e(alpha: float) -> float:
    """Return the log e-value at which pairs show that the target is the worse version."""
    return -math.log(min(alpha, LARGEST_ALPHA))


@lru_cache(maxsize=256)
def pairs_to_confirm(alpha: float, *, canary: bool) -> int:
    """Return how many pairs, bad on the target only, confirm an alert.

    They begin where evidence rests: an e-process, a canary's, at zero, an e-detector above it; so a canary needs more.
    """
    process, pairs = EProcess(), 0
    detector = EDetector(sums=resting_sums(EQUAL_SHARE), log_e=resting_log_e(EQUAL_SHARE))
    while pairs == 0 or (process if canary else detector).log_e < needed_log_e(alpha):
        process = observe_process(process, EQUAL_SHARE, [True])
        detector = observe_detector(detector, EQUAL_SHARE, [True])
        pairs += 1
    return pairs


def most_of_one_caller(alpha: float, *, canary: bool) -> int:
    """Return how many net pairs of one caller count against a target, whatever those of the others show."""
    return math.ceil(pairs_to_confirm(alpha, canary=canary) / 2)


def note_pair(callers: PairCallers, caller: str | None) -> PairCallers:
    """Return the callers with one more pair; None is a caller without a name."""
    if callers.recent >= RECENT_PAIRS:
        halved = {name: pairs.model_copy(update={"recent": pairs.recent // 2}) for name, pairs in callers.known.items()}
        callers = callers.model_copy(update={"known": halved, "recent": callers.recent // 2})
        callers = _without(callers, [name for name, pairs in halved.items() if not pairs.recent and not pairs.net])
    if caller is not None:
        if caller not in callers.known and len(callers.known) >= MOST_CALLERS:
            known = callers.known
            callers = _without(callers, [min(known, key=lambda name: (known[name].net, known[name].recent))])
        before = callers.known.get(caller, CallerPairs())
        callers = _with(callers, caller, before.model_copy(update={"recent": before.recent + 1}))
    return callers.model_copy(update={"recent": callers.recent + 1})


def is_full(callers: PairCallers, caller: str, alpha: float, *, canary: bool) -> bool:
    """Return whether a caller has its part in the evidence: no more of its pairs count against the target."""
    return (
        callers.known[caller].net >= most_of_one_caller(alpha, canary=canary)
        and not _has_most(callers, caller)
        and _log_e_of_others(callers, caller) < needed_log_e(alpha) / 2
    )


def note_discordant(callers: PairCallers, caller: str, *, target: bool, counts: bool) -> PairCallers:
    """Return the callers with one more pair that differs, which the evidence counts or leaves out."""
    if callers.target + callers.other >= RECENT_DIFFERING:
        callers = _halve_differing(callers)
    before, of_all = callers.known[caller], {"target": callers.target + target, "other": callers.other + (not target)}
    after = CallerPairs(
        recent=before.recent,
        net=max(0, before.net + (1 if target else -1)) if counts else before.net,
        target=before.target + target,
        other=before.other + (not target),
    )
    return _with(callers.model_copy(update=of_all), caller, after)


def at_rest(callers: PairCallers) -> PairCallers:
    """Return the callers once the evidence is at rest: what they had in it is outweighed."""
    known = {name: CallerPairs(recent=pairs.recent) for name, pairs in callers.known.items()}
    return PairCallers(known=known, recent=callers.recent)


def _has_most(callers: PairCallers, caller: str) -> bool:
    """Return whether a caller has clearly more than half of the pairs: none may be left to confirm beside it.

    Pairs are drawn from all requests alike. Of few pairs a burst is most.
    """
    own, total = callers.known[caller].recent, callers.recent
    return total >= RECENT_PAIRS // 2 and 2 * own - total >= CLEAR_SIGMAS * math.sqrt(total)


def _log_e_of_others(callers: PairCallers, caller: str) -> float:
    """Return the log e-value of all pairs that differ but those of one caller, since the evidence was at rest.

    Of the others, the one that speaks most for the target is left out as well: else it could keep two from confirming.
    """
    left_out = [callers.known[caller]]
    others = (pairs for name, pairs in callers.known.items() if name != caller and pairs.other > pairs.target)
    left_out.extend(sorted(others, key=lambda pairs: pairs.target - pairs.other)[:1])
    hits = callers.target - sum(pairs.target for pairs in left_out)
    misses = callers.other - sum(pairs.other for pairs in left_out)
    return process_log_e(EQUAL_SHARE, hits + misses, hits)


def _halve_differing(callers: PairCallers) -> PairCallers:
    known = {
        name: pairs.model_copy(update={"target": pairs.target // 2, "other": pairs.other // 2})
        for name, pairs in callers.known.items()
    }
    target = sum(pairs.target for pairs in known.values())  # halves of odd numbers are of no caller
    halved = {"target": target, "other": callers.other // 2, "forgotten": callers.forgotten // 2}
    return PairCallers(known=known, recent=callers.recent, **halved)


def _with(callers: PairCallers, caller: str, pairs: CallerPairs) -> PairCallers:
    return callers.model_copy(update={"known": {**callers.known, caller: pairs}})


def _without(callers: PairCallers, names: Sequence[str]) -> PairCallers:
    known = {name: pairs for name, pairs in callers.known.items() if name not in names}
    left = sum(callers.known[name].target for name in names)
    of_all = {"target": callers.target - left, "forgotten": callers.forgotten + left}
    return callers.model_copy(update={"known": known, **of_all})
