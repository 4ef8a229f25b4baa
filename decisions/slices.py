"""What a slice of live traffic shows: whether the previous version is as slow as the active one on the same callers.

Gateways draw by their own id of each request which version answers it, so that no caller chooses its side: both get the
same mixture of callers in the same seconds. One test is made, when the slice has ended.
"""

import hashlib
import math
from collections.abc import Mapping
from datetime import timedelta
from itertools import combinations
from typing import Final

from contracts.facts import SliceCounts, SliceVerdict
from contracts.policy import Trigger
from decisions.triggers import limit_of

FEWEST: Final = 8
"""Requests that each version must have had."""
ALPHA: Final = 0.01
"""Probability that a version which is no worse than the previous one is taken for worse."""
BOTH_ALPHA: Final = 0.05
"""Probability that a previous version at its very limit is taken for one beyond it."""
ALIKE: Final = 0.1
"""Below this probability of being alike, the active version is not taken for as slow as the previous one."""
STANDS: Final = timedelta(seconds=600)
"""How long it counts that both versions were slow; then another slice may be made."""

FEWEST_CALLERS: Final = 5
"""With so many callers what a slice shows must stand without any two of them; with fewer, without any one."""
MOST_ENDED: Final = 0.1
"""Share of its requests that a caller may end before they show anything, without being left out."""
_HEAVIEST: Final = 12
"""Callers of which any two are left out: those with most requests on the previous version, and most bad ones."""
MOST_CALLERS: Final = 64
"""Callers that are counted each for itself; each further one is counted together with one of them."""


def assess_callers(
    counts: SliceCounts, callers: Mapping[str, SliceCounts], trigger: Trigger, ended: Mapping[str, int] | None = None
) -> SliceVerdict:
    """Return what a slice shows without any one or two of its callers; `unknown` if they carry it.

    A caller learns from the headers and the answer which version it has, and can end what one of them answers before it
    counts. So one that ended more than a tenth of its requests before they showed anything is left out altogether, of
    both sides. Two callers are left out where there are `FEWEST_CALLERS` or more. Where all requests are of one caller,
    it harms only itself, and what it shows counts.

    Args:
        counts: All labelled requests that showed something.
        callers: Those of each caller.
        trigger: The trigger that they were judged by.
        ended: Requests of each caller that it ended before they showed anything.
    """
    complete = {name: own for name, own in callers.items() if not _hides((ended or {}).get(name, 0), own)}
    for name, own in callers.items():
        counts = counts if name in complete else _without(counts, own)
    verdict = assess_slice(counts, trigger)
    rests = [_without(counts, own) for own in complete.values()]
    if len(complete) >= FEWEST_CALLERS:
        heaviest = sorted(complete.values(), key=_weight, reverse=True)[:_HEAVIEST]
        rests += [_without(_without(counts, first), second) for first, second in combinations(heaviest, 2)]
    others = [counts_left for counts_left in rests if counts_left.target_requests + counts_left.other_requests]
    return verdict if all(assess_slice(counts_left, trigger) == verdict for counts_left in others) else "unknown"


def _hides(ended: int, own: SliceCounts) -> bool:
    """Return whether a caller ended so many of its requests that what is left may be chosen by it."""
    return ended > MOST_ENDED * (ended + own.target_requests + own.other_requests)


def _weight(own: SliceCounts) -> tuple[int, int]:
    """Return how much a caller can change: requests on the smaller side, the previous version, weigh most."""
    return own.other_requests + own.target_bad, own.target_requests


def caller_key(callers: Mapping[str, SliceCounts], caller: str) -> str:
    """Return the name that a caller is counted under."""
    if caller in callers or len(callers) < MOST_CALLERS:
        return caller
    return sorted(callers)[int.from_bytes(hashlib.sha256(caller.encode()).digest()[:8]) % len(callers)]


def assess_slice(counts: SliceCounts, trigger: Trigger) -> SliceVerdict:
    """Return what a slice shows.

    `both` holds a rollback, so the previous version must be beyond the trigger's limit itself, by more than chance, and
    the active one not look worse; where neither is shown, the version is rolled back if its alert lasts.
    """
    if min(counts.target_requests, counts.other_requests) < FEWEST:
        return "unknown"
    p_worse = probability_of_worse(counts)
    if p_worse <= ALPHA:
        return "target"
    beyond = probability_within(counts.other_bad, counts.other_requests, limit_of(trigger)) <= BOTH_ALPHA
    return "both" if beyond and p_worse > ALIKE else "unknown"


def probability_within(bad: int, requests: int, limit: float) -> float:
    """Return the probability of so many bad requests or more, if that share of them is bad: the binomial tail."""
    if bad > requests:
        return 0.0
    if bad <= 0 or limit >= 1.0:
        return 1.0
    if limit <= 0.0:
        return 0.0
    terms = (
        _log_comb(requests, count) + count * math.log(limit) + (requests - count) * math.log1p(-limit)
        for count in range(bad, requests + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def probability_of_worse(counts: SliceCounts) -> float:
    """Return the one-sided probability of so many bad requests on the target, if both versions were alike.

    Fisher's exact test: the tail of the hypergeometric distribution.
    """
    total = counts.target_requests + counts.other_requests
    bad = counts.target_bad + counts.other_bad
    most = min(bad, counts.target_requests)
    whole = _log_comb(total, counts.target_requests)
    tail = (
        _log_comb(bad, on_target) + _log_comb(total - bad, counts.target_requests - on_target) - whole
        for on_target in range(counts.target_bad, most + 1)
        if counts.target_requests - on_target <= total - bad
    )
    return min(1.0, math.fsum(math.exp(term) for term in tail))


def add_request(counts: SliceCounts, *, on_target: bool, bad: bool) -> SliceCounts:
    """Return the counts with one more request."""
    side = "target" if on_target else "other"
    requests, bads = f"{side}_requests", f"{side}_bad"
    return counts.model_copy(update={requests: getattr(counts, requests) + 1, bads: getattr(counts, bads) + int(bad)})


def _without(counts: SliceCounts, part: SliceCounts) -> SliceCounts:
    return SliceCounts(
        target_requests=counts.target_requests - part.target_requests,
        target_bad=counts.target_bad - part.target_bad,
        other_requests=counts.other_requests - part.other_requests,
        other_bad=counts.other_bad - part.other_bad,
    )


def describe(counts: SliceCounts) -> str:
    """Return the counts in a phrase."""
    return (
        f"{counts.target_bad} of {counts.target_requests} requests were beyond the threshold on the active version, "
        f"{counts.other_bad} of {counts.other_requests} on the previous one"
    )


def _log_comb(whole: int, part: int) -> float:
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)
