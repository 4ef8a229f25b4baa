"""What the requests that a candidate was asked unseen have shown, before it takes traffic.

Each pair has the same request on the active version and on the candidate, so that only where they differ speaks against
the candidate (`decisions.pairs`). Here latency counts as well: the candidate has less to do than the active version.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from contracts.facts import ShadowAssessed, ShadowCounts
from contracts.policy import Shadow, Trigger
from decisions.evidence import EQUAL_SHARE, SMALLEST_RATIO, as_e_value, estimate_requests_needed
from decisions.observation import TriggerState
from decisions.pairs import MirrorTest, needed_log_e
from decisions.triggers import kind_of, limit_of, sequential
from services.monitor.domain.canary import Part
from services.monitor.domain.record import Policy, TargetState

ERRORS: Final = Trigger(name="errors-in-shadow", metric="error_ratio", threshold=0.01, min_requests=1, action="manual")
"""Errors where the active version answers count also where a policy has no trigger for them."""
EMPTY: Final = Trigger(name="empty-in-shadow", metric="empty_ratio", threshold=0.5, min_requests=1, action="manual")
"""Without a trigger for empty answers, a candidate most of whose answers are empty fails all the same."""
MOST_DEATHS: Final = 1
"""A candidate whose engine died more often does not pass: one death can be one request's."""


def triggers_of_shadow(policy: Policy) -> tuple[Trigger, ...]:
    """Return the triggers by which a shadow is judged: the policy's, and own ones that it lacks."""
    declared = sequential(policy.triggers)
    metrics = {trigger.metric for trigger in declared}
    return (*declared, *(trigger for trigger in (ERRORS, EMPTY) if trigger.metric not in metrics))


def assess_shadow(policy: Policy, shadow: Shadow, state: TargetState, now: datetime) -> ShadowAssessed:
    """Return the verdict on a candidate in its shadow: any failure fails; whatever is missing makes it inconclusive.

    Args:
        policy: What the candidate's release asks for.
        shadow: The part of it that is about the shadow.
        state: The candidate, with the pairs since its shadow began.
        now: The time.
    """
    triggers = triggers_of_shadow(policy)
    parts = [_missing(shadow, state.requests), *_deaths(state)]
    parts += [_assess_pairs(trigger, shadow, state.triggers.get(trigger.name)) for trigger in triggers]
    remaining_s = max(0.0, shadow.duration_s - (now - state.since).total_seconds())
    failed = [part for part in parts if part.verdict == "fail"]
    unclear = [part for part in parts if part.verdict == "inconclusive"]
    decisive: Sequence[Part] = failed or unclear or parts
    reasons = [part.reason for part in decisive]
    if not failed and remaining_s > 0.0:
        reasons.append(f"{remaining_s:.0f} s of {shadow.duration_s:g} s remain")
    return ShadowAssessed(
        target=state.target,
        share_ratio=state.weight_ratio,
        requests=state.requests,
        counts={
            trigger.name: ShadowCounts(pairs=test.counts, e_value=as_e_value(_evidence(trigger, test)))
            for trigger in triggers
            if (test := _test_of(state.triggers.get(trigger.name))) is not None
        },
        requests_needed=0 if failed else max(part.needed for part in parts),
        seconds_needed=0.0 if failed else remaining_s,
        verdict="fail" if failed else "inconclusive" if unclear or remaining_s > 0.0 else "pass",
        reason="; ".join(reasons) + ".",
    )


def _missing(shadow: Shadow, compared: int) -> Part:
    """Return whether enough requests were compared."""
    share = f"{compared} of {shadow.min_requests} requests compared"
    missing = max(0, shadow.min_requests - compared)
    return Part("inconclusive" if missing else "pass", missing, share)


def _deaths(state: TargetState) -> tuple[Part, ...]:
    """Return what deaths of the candidate's engine mean: several let nothing pass, though their requests are few."""
    count = len(state.deaths)
    if count <= MOST_DEATHS:
        return ()
    return (Part("inconclusive", 1, f"the candidate's engine died {count} times, with which it cannot pass"),)


def _assess_pairs(trigger: Trigger, shadow: Shadow, state: TriggerState | None) -> Part:
    """Judge a candidate by one trigger.

    Half of the needed evidence, or more requests bad on it alone than the policy allows, is too much to pass with and
    too little to fail: it takes more requests. A latency trigger fails a candidate only if more of its requests are
    beyond the threshold than the policy allows, because to be slower than the active version within the limits is no
    regression, and only once the shadow has its requests, because the first ones may be slow. A trigger's own
    `min_requests` may be meant for all traffic: where the shadow has its requests, enough evidence fails.
    """
    test = _test_of(state)
    if test is None:
        return Part("pass", 0, f"{trigger.name}: nothing to compare")
    counts = test.counts
    share = (
        f"{trigger.name}: of {test.pairs} requests to both versions, {counts.only_target} were bad on the candidate "
        f"only and {counts.only_other} on the active version only"
    )
    is_latency = kind_of(trigger) == "latency"
    if (is_latency or trigger == EMPTY) and (counts.both + counts.only_target) / test.pairs <= limit_of(trigger):
        return Part("pass", 0, share)
    needed, evidence = needed_log_e(trigger.alpha), _evidence(trigger, test)
    share += f" (e-value {as_e_value(evidence):.3g}, {as_e_value(needed):.3g} needed)"
    least = shadow.min_requests if is_latency else min(trigger.min_requests, shadow.min_requests)
    if evidence >= needed:
        missing = max(0, least - test.pairs)
        return Part("inconclusive" if missing else "fail", missing, share)
    more = _needed(trigger, test, needed)
    return Part("inconclusive", more, f"{share}, {_why_not(trigger, test)}") if more else Part("pass", 0, share)


def _why_not(trigger: Trigger, test: MirrorTest) -> str:
    """Return why requests bad on the candidate only do not fail it yet, though there are too many to pass with."""
    counts = test.counts
    counted = counts.only_target - test.capped - counts.only_other
    if not test.capped or counted > limit_of(trigger) * test.pairs:
        return "which may be chance"
    return f"{test.capped} of them of few callers, whose requests alone neither fail a candidate nor let it pass"


def _needed(trigger: Trigger, test: MirrorTest, needed: float) -> int:
    """Return how many more requests it takes to tell a worse candidate from chance; 0 if it may pass."""
    seen, limit = test.discordant, limit_of(trigger)
    net = test.counts.only_target - test.counts.only_other  # of all: a candidate that fails one caller must not pass
    until_fail = estimate_requests_needed(seen, EQUAL_SHARE, trigger.alpha)
    if net <= limit * test.pairs and (seen.log_e < needed / 2 or until_fail is None):
        return 0
    until_clean = math.ceil(net / max(limit, SMALLEST_RATIO)) - test.pairs
    possible = [math.ceil(until_fail * test.pairs / seen.trials)] if until_fail is not None else []
    possible += [until_clean] if until_clean > 0 else []
    return max(1, min(possible, default=1))


def _test_of(state: TriggerState | None) -> MirrorTest | None:
    """Return the pairs of a trigger; None without any."""
    return state.mirrored if state is not None and state.mirrored is not None and state.mirrored.pairs else None


def _evidence(trigger: Trigger, test: MirrorTest) -> float:
    """Return the log e-value that decides: the highest so far, but of latency the latest, without a cold start."""
    return test.discordant.log_e if kind_of(trigger) == "latency" else test.discordant.peak
