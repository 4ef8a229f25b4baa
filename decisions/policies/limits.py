"""Upper limits of a policy's values."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final, NamedTuple

from contracts.policy import ReleasePolicy

LONGEST_S: Final = 100 * 365 * 86_400
"""Longest duration in a policy: a hundred years, in seconds."""
MOST_WARMUPS: Final = 1_000
"""Maximum warm-up requests of a benchmark, which are sent sequentially."""
MOST_REQUESTS: Final = 1_000_000_000
"""Largest number of requests to wait for."""
LEAST_ALPHA: Final = 1e-100
"""Least `alpha`: e-values are not computed beyond its inverse."""
LONGEST_LOAD_S: Final = 14_400
"""Longest load of a benchmark in seconds."""


class PolicyProblem(NamedTuple):
    """A problem that makes a policy invalid.

    Attributes:
        field: Path of the invalid field.
        reason: A sentence that begins with the field.
    """

    field: tuple[str | int, ...]
    reason: str


def find_endless(policy: ReleasePolicy) -> PolicyProblem | None:
    """Return the first value beyond a limit: a duration, number of requests, `alpha`, or benchmark time; None without.

    Benchmarks run one at a time: a long one delays all others.
    """
    for field, seconds in _durations(policy):
        if seconds > LONGEST_S:
            name = ".".join(map(str, field))
            return PolicyProblem(field, f"{name} is {seconds:g} s; the limit is {LONGEST_S:,} s (100 years): lower it.")
    for field, requests in _least_requests(policy):
        if requests > MOST_REQUESTS:
            name = ".".join(map(str, field))
            return PolicyProblem(field, f"{name} is {_short(requests)}; the limit is {MOST_REQUESTS:,}: lower it.")
    for number, trigger in enumerate(policy.triggers):
        if trigger.alpha < LEAST_ALPHA:
            reason = f"triggers.{number}.alpha is {trigger.alpha:g}; the least is {LEAST_ALPHA:g}: raise it."
            return PolicyProblem(("triggers", number, "alpha"), reason)
    load, allowed_s = policy.load, policy.deadlines.benchmark_s
    if load.warmup_requests > MOST_WARMUPS:
        reason = f"load.warmup_requests is {_short(load.warmup_requests)}; the limit is {MOST_WARMUPS:,}: lower it."
        return PolicyProblem(("load", "warmup_requests"), reason)
    takes_s = load.requests / load.rate_rps + load.timeout_s
    limit, advice = f"deadlines.benchmark_s is {allowed_s:g} s", "raise one of them"
    if allowed_s > LONGEST_LOAD_S:
        limit, advice = f"the limit is {LONGEST_LOAD_S:,} s, because others wait for it", "raise it"
    if takes_s >= min(allowed_s, LONGEST_LOAD_S):
        reason = (
            f"load.rate_rps is {load.rate_rps:g}, so that {load.requests} requests and the longest answer take "
            f"{takes_s:g} s; {limit}: {advice}, or lower load.requests or load.timeout_s."
        )
        return PolicyProblem(("load", "rate_rps"), reason)
    return None


def _durations(policy: ReleasePolicy) -> Iterator[tuple[tuple[str | int, ...], float]]:
    for name, seconds in policy.deadlines:
        yield ("deadlines", name), seconds
    yield ("promotion", "approval_deadline_s"), policy.promotion.approval_deadline_s
    yield ("canary", "deadline_s"), policy.canary.deadline_s
    if policy.shadow is not None:
        yield ("shadow", "duration_s"), policy.shadow.duration_s
        yield ("shadow", "deadline_s"), policy.shadow.deadline_s
    yield ("rehearsal_valid_s",), policy.rehearsal_valid_s
    yield ("judgement_s",), policy.judgement_s
    for number, trigger in enumerate(policy.triggers):
        yield ("triggers", number, "window_s"), trigger.window_s


def _least_requests(policy: ReleasePolicy) -> Iterator[tuple[tuple[str | int, ...], int]]:
    yield ("canary", "min_requests"), policy.canary.min_requests
    if policy.shadow is not None:
        yield ("shadow", "min_requests"), policy.shadow.min_requests
    for number, trigger in enumerate(policy.triggers):
        yield ("triggers", number, "min_requests"), trigger.min_requests


def _short(number: int) -> str:
    """Return a number with at most six digits, also if it is too large for a float."""
    return f"{Decimal(number).normalize():.6g}"
