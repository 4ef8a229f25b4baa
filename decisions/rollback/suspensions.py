"""The judgement of suspended versions, and descriptions of their state. Pure."""

import math
from typing import Final

from contracts.routes import Route, Suspended
from decisions.evidence.block_tests import SMALLEST_LIMIT, STAKES, plan_stakes
from decisions.routes.edits import AWAY_TIMES

JUDGED_RATIO: Final = 0.5
"""Share of the active version's requests that a suspended version's shadow gets, within spare capacity."""
CONFIRM_ALPHA: Final = 0.001
"""Probability that a version that is not worse is confirmed."""
CLEAR_BETA: Final = 0.003
"""Probability that a version with twice the limit is cleared."""
PERSON_DECIDES: Final = (
    "a person decides: a shadow, which is idle, shows nothing of latency, queueing, memory or deaths, nor why a "
    "version answered nothing"
)
RETURNS: Final = "returns as a canary"
_SIGMAS = 1.96


def describe_suspended(route: Route, entry: Suspended) -> str:
    """Return the state of a suspended version with the commands for a decision."""
    back = f"slipway rollback return {route.model} --reason …"
    if entry.returned_by:
        return f"{RETURNS} after any release under way; if its release has ended: {back} {entry.evidence}"
    orders = f"{back}, or slipway rollback confirm {route.model} --reason …"
    if entry.verdict == "cleared":
        return f"cleared: {back} {entry.evidence}"
    if entry.verdict == "undecided":
        return f"undecided, so a person decides: {orders} {entry.evidence}"
    if not entry.trigger:
        return f"{PERSON_DECIDES}: {orders}"
    if route.judged is not entry:
        return f"judged by {entry.trigger} once the shadow is free"
    return f"judged by its shadow, by {entry.trigger}: it is asked what callers asked"


def describe_away(route: Route) -> str:
    """Return a sentence on how often the canary's traffic was taken away; empty if never."""
    canary = route.canary_in_traffic
    if canary is None or canary.away_until is None:
        return ""
    return (
        f"the traffic of {canary.served.target} was taken away {canary.times_away} of {AWAY_TIMES} times, last until "
        f"{canary.away_until:%Y-%m-%d %H:%M:%S} UTC: it and the active version were beyond a limit at the same time"
    )


def describe_share(bad: int, requests: int) -> str:
    """Return a number of bad requests with their share and its 95 % interval."""
    low, high = interval(bad, requests)
    return f"{bad} ({bad / requests:.1%}, {low:.1%} to {high:.1%})"


def interval(bad: int, requests: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    ratio, spread = bad / requests, _SIGMAS**2 / requests
    middle = (ratio + spread / 2.0) / (1.0 + spread)
    half = _SIGMAS / (1.0 + spread) * math.sqrt(ratio * (1.0 - ratio) / requests + spread / (4.0 * requests))
    return min(ratio, max(0.0, middle - half)), max(ratio, min(1.0, middle + half))


def least_confirmed(limit: float, pairs: float) -> float | None:
    """Return the least share of bad requests that a number of pairs confirms in most cases; None if none.

    The other version is assumed to have half of the limit, and failures to be independent.
    """
    other = max(limit, SMALLEST_LIMIT) / 2.0
    needed = -math.log(CONFIRM_ALPHA) + math.log(STAKES)

    def confirms(share: float) -> bool:
        worse, better = share * (1.0 - other), other * (1.0 - share)
        grown = (worse * math.log1p(stake) + better * math.log1p(-stake) for stake in plan_stakes(0.5))
        return pairs * max(grown) >= needed

    shares = (number / 200.0 for number in range(1, 201))
    return next((share for share in shares if share > other and confirms(share)), None)
