"""What a canary's traffic has proved so far, and how much more is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.facts import CanaryAssessed, TriggerCounts
from contracts.policy import Trigger
from contracts.vocabulary import Verdict
from decisions.evidence import (
    EQUAL_SHARE,
    SMALLEST_RATIO,
    EProcess,
    PairTest,
    as_e_value,
    estimate_requests_needed,
    plan_bet,
)
from decisions.observation import TriggerState, fresh_trigger
from decisions.pairs import MirrorTest, has_fired
from decisions.triggers import kind_of, limit_of, sequential
from services.monitor.domain.record import Policy, TargetState

MOSTLY: Final = 0.95
"""The share of a canary's requests from which those that a trigger does not see stand for all of them."""


@dataclass(frozen=True)
class Part:
    """The verdict of one comparison."""

    verdict: Verdict
    needed: int
    reason: str


def against_limit(trigger: Trigger, state: TriggerState | None) -> Part:
    """Judge a canary by a trigger's own limit."""
    limit = limit_of(trigger)
    if state is None or not state.evidence.trials:
        return Part("inconclusive", trigger.min_requests, f"{trigger.name}: nothing observed yet")
    seen = state.evidence
    share = f"{trigger.name}: {seen.hits} of {seen.trials} bad, {limit:.3g} allowed"
    if seen.crossed(trigger.alpha) and seen.trials >= trigger.min_requests:
        return Part("fail", 0, f"{share} (e-value {as_e_value(seen.peak):.3g})")
    if seen.trials < trigger.min_requests:
        return Part("inconclusive", trigger.min_requests - seen.trials, share)
    if seen.hits / seen.trials <= limit:
        return Part("pass", 0, share)
    until_clean = math.ceil(seen.hits / max(limit, SMALLEST_RATIO)) - seen.trials
    until_fail = estimate_requests_needed(seen, plan_bet(limit), trigger.alpha)
    return Part("inconclusive", max(1, min(until_clean, until_fail or until_clean)), share)


def against_baseline(trigger: Trigger, pair: PairTest | None, *, required: int) -> Part:
    """Judge a canary by an equal concurrent slice of the baseline."""
    if pair is None or pair.pairs < required:
        have = pair.pairs if pair else 0
        fired = pair is not None and pair.discordant.crossed(trigger.alpha) and have >= trigger.min_requests
        if not fired:
            return Part("inconclusive", required - have, f"{trigger.name}: {have} requests beside the baseline")
    assert pair is not None  # noqa: S101 - no pair was answered above
    share = f"{trigger.name}: bad on {pair.candidate_hits} of {pair.pairs} against {pair.baseline_hits} of the baseline"
    if pair.discordant.crossed(trigger.alpha):
        return Part("fail", 0, f"{share} (e-value {as_e_value(pair.discordant.peak):.3g})")
    if pair.discordant.log_e <= 0.0:
        return Part("pass", 0, share)
    more = estimate_requests_needed(pair.discordant, EQUAL_SHARE, trigger.alpha)
    ratio = pair.discordant.trials / pair.pairs
    suspicious = pair.discordant.log_e >= 0.5 * -math.log(trigger.alpha)
    if not suspicious or more is None:
        return Part("pass", 0, share)
    return Part("inconclusive", math.ceil(more / ratio), f"{share}, which may be chance")


def against_pairs(trigger: Trigger, test: MirrorTest | None) -> Part | None:
    """Judge a canary by the requests that both sides answered; None unless they show that it is worse."""
    if test is None or not has_fired(trigger, test):
        return None
    counts, e_value = test.counts, as_e_value(test.discordant.peak)
    return Part(
        "fail",
        0,
        f"{trigger.name}: of {test.pairs} requests to both sides, {counts.only_target} were bad on the canary only and "
        f"{counts.only_other} on the baseline only (e-value {e_value:.3g})",
    )


def assess_canary(policy: Policy, state: TargetState) -> CanaryAssessed:
    """Return the verdict over all triggers: any failure fails; whatever is missing makes it inconclusive."""
    required = policy.canary.min_requests
    parts = list(_parts(policy, state))
    if state.requests < required:
        have = f"{state.requests} of {required} requests"
        parts.append(Part("inconclusive", required - state.requests, have))
    failed = [part for part in parts if part.verdict == "fail"]
    unclear = [part for part in parts if part.verdict == "inconclusive"]
    decisive: Sequence[Part] = failed or unclear or parts
    return CanaryAssessed(
        target=state.target,
        weight_ratio=state.weight_ratio,
        requests=state.requests,
        e_values=_e_values(policy, state),
        counts={name: _counts(trigger) for name, trigger in state.triggers.items()},
        requests_needed=0 if failed else max((part.needed for part in unclear), default=0),
        verdict="fail" if failed else "inconclusive" if unclear else "pass",
        reason="; ".join(part.reason for part in decisive) + ".",
    )


def _parts(policy: Policy, state: TargetState) -> list[Part]:
    parts = []
    unseen = _find_unseen(policy, state)
    for trigger in sequential(policy.triggers):
        trigger_state = state.triggers.get(trigger.name)
        if trigger.name in unseen:
            parts.append(Part("pass", 0, unseen[trigger.name]))
        else:
            parts.append(against_limit(trigger, trigger_state))
            parts.append(
                against_baseline(
                    trigger, trigger_state.pair if trigger_state else None, required=policy.canary.min_requests
                )
            )
        by_pairs = against_pairs(trigger, trigger_state.mirrored if trigger_state else None)
        parts += [] if by_pairs is None else [by_pairs]
    return parts


def _find_unseen(policy: Policy, state: TargetState) -> dict[str, str]:
    """Return the triggers that more requests of these callers would show nothing of, with the reason, by name.

    A bad request among the few that such a trigger saw still counts, and a canary does not pass without any trigger.
    """
    unseen = {}
    for trigger in sequential(policy.triggers):
        seen = state.triggers.get(trigger.name) or fresh_trigger("canary")
        if seen.evidence.hits:
            continue
        of_callers = seen.hidden + seen.evidence.trials
        if seen.hidden >= policy.canary.min_requests and seen.evidence.trials <= (1.0 - MOSTLY) * of_callers:
            shown = f"the callers' parameters hide {seen.hidden} of {of_callers} requests from it"
        elif not seen.evidence.trials and state.requests * (1.0 - MOSTLY) >= trigger.min_requests:
            shown = f"none of {state.requests} requests shows anything of it"
        else:
            continue
        unseen[trigger.name] = f"{trigger.name}: {shown}, so that it does not count"
    return unseen if len(unseen) < len(sequential(policy.triggers)) else {}


def _e_values(policy: Policy, state: TargetState) -> dict[str, float]:
    """Return the highest e-value so far of each test that can fail the canary: the highest decides, not the latest."""
    latency = {trigger.name for trigger in policy.triggers if kind_of(trigger) == "latency"}
    tests: dict[str, EProcess] = {}
    for name, trigger in state.triggers.items():
        tests[name] = trigger.evidence
        if trigger.pair is not None:
            tests[f"{name}:baseline"] = trigger.pair.discordant
        if trigger.mirrored is not None and name not in latency:
            tests[f"{name}:pairs"] = trigger.mirrored.discordant
    return {name: as_e_value(evidence.peak) for name, evidence in tests.items()}


def _counts(trigger: TriggerState) -> TriggerCounts:
    """Return the counts that the e-values of a trigger were computed from."""
    pair = trigger.pair or PairTest()
    return TriggerCounts(
        requests=trigger.evidence.trials,
        bad=trigger.evidence.hits,
        pairs=pair.pairs,
        bad_in_pairs=pair.candidate_hits,
        active_bad_in_pairs=pair.baseline_hits,
        mirrored=trigger.mirrored.counts if trigger.mirrored is not None else None,
    )
