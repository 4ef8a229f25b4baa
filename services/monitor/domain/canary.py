"""Assesses a candidate by its evidence from shadow and canary steps: verdict, reason, requests needed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.facts import CanaryAssessed, TriggerCounts
from contracts.policy import Trigger
from contracts.vocabulary import Verdict
from decisions.evidence.candidates import CandidateState, count_needed, judge
from decisions.evidence.observation import TriggerState
from decisions.evidence.triggers import limit_of, sequential
from decisions.routes.edits import AWAY_EVERY, AWAY_TIMES
from services.monitor.domain.record import Policy, TargetState


@dataclass(frozen=True)
class Part:
    """The verdict of one condition, such as one trigger.

    Attributes:
        needed: Further requests needed for a decision.
        shown: False if there is no evidence at all.
        take_away: Whether to remove the canary's traffic for a while, because both versions exceed the limit.
    """

    verdict: Verdict
    needed: int
    reason: str
    shown: bool = True
    take_away: bool = False


def assess_trigger(trigger: Trigger, state: TriggerState | None, beta: float, now: datetime) -> Part:
    """Return a trigger's verdict on a candidate, compared with the active version in the same seconds.

    Without evidence the verdict is pass.
    """
    seen = state.candidate if state is not None else None
    if state is None or seen is None or not seen.candidate.requests:
        return Part("pass", 0, f"{trigger.name}: {_why_nothing(state)}, so that it does not count", shown=False)
    limit, own, beside = limit_of(trigger), seen.candidate, seen.active
    share = f"{trigger.name}: {own.bad} of {own.requests} bad, {limit:.3g} allowed"
    if beside.requests:
        share += f", {beside.bad} of {beside.requests} on the active version at the same time"
    verdict = judge(seen, trigger, beta)
    if verdict == "fail":
        is_worse = seen.everyone.test.worse.crossed(trigger.alpha)
        against = "it is worse than the active version" if is_worse else "it is beyond its limit"
        return Part("fail", 0, f"{share}: {against} (e-value {seen.worse if is_worse else seen.beyond:.3g})")
    if verdict == "pass":
        return Part("pass", 0, share)
    needed = max(1, count_needed(seen, trigger, beta))
    if verdict == "load":
        is_over = seen.times_away >= AWAY_TIMES
        is_due = not is_over and now.timestamp() >= seen.away_until_s + AWAY_EVERY.total_seconds()
        away = "; its traffic is taken away for a minute" if is_due else ""
        away = f"; its traffic was taken away {AWAY_TIMES} times, the most at one share" if is_over else away
        return Part("inconclusive", needed, f"{share}: {_why_both(seen)}{away}", take_away=is_due)
    return Part("inconclusive", needed, f"{share}, {_why_undecided(seen, trigger, needed)}")


def _why_nothing(state: TriggerState | None) -> str:
    if state is not None and state.hidden:
        return f"the callers' parameters hide {state.hidden} of {state.hidden} requests from it"
    return "no request shows anything of it"


def _why_both(seen: CandidateState) -> str:
    is_seen = any(seen.everyone.test.alone.logs)
    without = ", and so far also without this one: the machine or the load, not the version" if is_seen else ""
    return f"the active version is beyond its limit, too{without}"


def _why_undecided(seen: CandidateState, trigger: Trigger, needed: int) -> str:
    """Return why a trigger is undecided, as text."""
    if judge(seen.model_copy(update={"callers": {}}), trigger, 1.0 - 1e-9) == "fail":
        return "which may be one caller's alone"
    return f"and about {needed} good requests to be sure that it is below twice that"


def decide(parts: Sequence[Part]) -> tuple[Verdict, Sequence[Part]]:
    """Return the overall verdict and its decisive parts: fail before inconclusive before pass."""
    for verdict in ("fail", "inconclusive"):
        decisive = [part for part in parts if part.verdict == verdict]
        if decisive:
            return decisive[0].verdict, decisive
    return "pass", parts


def assess_canary(policy: Policy, state: TargetState, now: datetime) -> CanaryAssessed:
    """Return the verdict on a canary over all triggers and the required number of requests."""
    required = policy.canary.min_requests
    watching = sequential(policy.triggers)
    parts = [assess_trigger(trigger, state.triggers.get(trigger.name), policy.canary.beta, now) for trigger in watching]
    if parts and not any(part.shown for part in parts):
        parts.append(Part("inconclusive", 1, "no trigger has seen a request yet"))
    if state.requests < required:
        have = f"{state.requests} of {required} requests"
        parts.append(Part("inconclusive", required - state.requests, have))
    verdict, decisive = decide(parts)
    return CanaryAssessed(
        target=state.target,
        weight_ratio=state.weight_ratio,
        requests=state.requests,
        e_values=_e_values(state),
        counts={name: _counts(trigger) for name, trigger in state.triggers.items()},
        requests_needed=0 if verdict == "fail" else max((part.needed for part in decisive), default=0),
        verdict=verdict,
        reason="; ".join(part.reason for part in decisive) + ".",
        take_away=verdict == "inconclusive" and any(part.take_away for part in parts),
    )


def _e_values(state: TargetState) -> dict[str, float]:
    """Return the e-value of each test that can fail a canary."""
    known = {name: trigger.candidate for name, trigger in state.triggers.items() if trigger.candidate is not None}
    beyond = {name: seen.beyond for name, seen in known.items()}
    return beyond | {f"{name}:baseline": seen.worse for name, seen in known.items() if seen.active.requests}


def _counts(trigger: TriggerState) -> TriggerCounts:
    """Return a trigger's counts of requests, over the shadow and all steps."""
    seen = trigger.candidate or CandidateState()
    return TriggerCounts(
        requests=seen.candidate.requests,
        bad=seen.candidate.bad,
        active_requests=seen.active.requests,
        active_bad=seen.active.bad,
        mirrored=trigger.mirrored,
    )
