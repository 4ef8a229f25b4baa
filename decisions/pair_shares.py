"""Whether pairs speak against a target without the callers that speak most against it, with half of the requests.

Several keys may be in one hand, and keys that are of no team are a holder each. So an alert is confirmed by pairs only
if they cannot be laid to holders with at most half of the requests, as with deaths of an engine: these are left out as
a linear program would choose them, those with most against the target for each of their requests first and of the last
one a part, so that no holders with as many requests carry more. What is left must show a third of the evidence. A
holder with clearly more than half of the requests is not left out: no others could confirm beside it. Of more than
`MOST_CALLERS` holders only so many can be left out, those with most against the target: of a model with a thousand
callers, each with a pair or two, half could be left out such that nothing remains.
"""

import math
from collections.abc import Mapping
from typing import Final

from decisions.engine_deaths import DEVIATIONS, MOST_SHARE
from decisions.evidence import EQUAL_SHARE, process_log_e
from decisions.pair_callers import CallerPairs, PairCallers, needed_log_e

PART: Final = 1.0 / 3.0
"""Of the log e-value that confirms: what the pairs of the others must show.

Half of it takes up to twice as many pairs, and excludes one more false confirmation in a hundred (ADR 0027).
"""


def are_from_most(holders: PairCallers, requests: Mapping[str, int], alpha: float) -> bool:
    """Return whether pairs speak against a target whichever holders with at most half of the requests are left out.

    Args:
        holders: Whose pairs they are; where records name no holders, nothing is left out.
        requests: Those of each holder, lately: of all, not of pairs only. Each pair is one of them.
        alpha: Of the trigger.
    """
    return not holders.known or log_e_without_half(holders, requests) >= PART * needed_log_e(alpha)


def log_e_without_half(holders: PairCallers, requests: Mapping[str, int]) -> float:
    """Return the log e-value of the pairs that differ, without those of holders with at most half of the requests.

    Of the others, the one that speaks most for the target is left out as well: else it could keep all from confirming.
    """
    counts = {name: max(pairs.recent, requests.get(name, 0)) for name, pairs in holders.known.items()}
    left = _most_requests(sum({**requests, **counts}.values()))
    against = [name for name, pairs in holders.known.items() if _net(pairs) > 0 and counts[name] <= left]
    hits = float(holders.forgotten + sum(pairs.target for pairs in holders.known.values()))
    misses = float(holders.other)
    for name in sorted(against, key=lambda name: (-_net(holders.known[name]) / max(1, counts[name]), name)):
        count, pairs = counts[name], holders.known[name]
        part = min(1.0, left / count) if count else 1.0
        hits, misses, left = hits - part * pairs.target, misses - part * pairs.other, left - part * count
    best = min(holders.known.values(), key=_net, default=CallerPairs())
    if _net(best) < 0:
        hits, misses = hits - best.target, misses - best.other
    whole = math.floor(hits + 1e-9)
    return process_log_e(EQUAL_SHARE, whole + max(0, math.ceil(misses - 1e-9)), whole)


def _most_requests(total: int) -> float:
    """Return how many of the counted requests holders have by chance at most that have half of all."""
    return MOST_SHARE * total + DEVIATIONS * 0.5 * math.sqrt(total)


def _net(pairs: CallerPairs) -> int:
    return pairs.target - pairs.other
