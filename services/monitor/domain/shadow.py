"""Assesses a candidate's shadow, before it takes traffic. Pure.

Each pair has the same request on the active version and the candidate, counted in the same block. Unlike for a canary,
pairs count for latency, too.
"""

from datetime import datetime, timedelta
from typing import Final

from contracts.facts import MirroredPair, PairCounts, ShadowAssessed, ShadowCounts
from contracts.policy import Shadow
from decisions.evidence.triggers import ended_at, triggers_of_shadow
from services.monitor.domain.canary import Part, assess_trigger, decide
from services.monitor.domain.record import Policy, ShadowDeath, TargetState

MOST_DEATHS: Final = 1
"""Maximum engine deaths of a shadow that can pass: a single request may cause one."""
STILL_DEAD: Final = timedelta(seconds=60)
"""Time after a death in which further reports without an answer in between are the same death."""
_KEPT: Final = 24


def assess_shadow(policy: Policy, shadow: Shadow, state: TargetState, now: datetime) -> ShadowAssessed:
    """Return the verdict on a shadow: any failure fails; missing requests or time make it inconclusive.

    Args:
        policy: The policy of the candidate's release.
        shadow: The policy's part about the shadow.
        state: The candidate, with the pairs since its shadow began.
        now: The time of the assessment.
    """
    triggers = triggers_of_shadow(policy.triggers)
    known = {trigger.name: seen for trigger in triggers if (seen := state.triggers.get(trigger.name)) is not None}
    parts = [_missing(shadow, state.requests), *_deaths(state)]
    parts += [assess_trigger(trigger, known.get(trigger.name), policy.canary.beta, now) for trigger in triggers]
    remaining_s = max(0.0, shadow.duration_s - (now - state.since).total_seconds())
    verdict, decisive = decide(parts)
    reasons = [part.reason for part in decisive]
    if verdict != "fail" and remaining_s > 0.0:
        verdict = "inconclusive"
        reasons.append(f"{remaining_s:.0f} s of {shadow.duration_s:g} s remain")
    return ShadowAssessed(
        target=state.target,
        share_ratio=state.weight_ratio,
        requests=state.requests,
        counts={
            name: ShadowCounts(pairs=seen.mirrored or PairCounts(), e_value=seen.peak) for name, seen in known.items()
        },
        requests_needed=0 if verdict == "fail" else max(part.needed for part in parts),
        seconds_needed=0.0 if verdict == "fail" else remaining_s,
        verdict=verdict,
        reason="; ".join(reasons) + ".",
    )


def _missing(shadow: Shadow, compared: int) -> Part:
    """Return the part on the required number of compared requests."""
    share = f"{compared} of {shadow.min_requests} requests compared"
    missing = max(0, shadow.min_requests - compared)
    return Part("inconclusive" if missing else "pass", missing, share)


def _deaths(state: TargetState) -> tuple[Part, ...]:
    """Return an inconclusive part if the candidate's engine died more than `MOST_DEATHS` times; else none."""
    count = len(state.deaths)
    if count <= MOST_DEATHS:
        return ()
    return (Part("inconclusive", 1, f"the candidate's engine died {count} times, with which it cannot pass"),)


def note_shadow_pair(deaths: tuple[ShadowDeath, ...], pair: MirroredPair) -> tuple[ShadowDeath, ...] | None:
    """Return a candidate's engine deaths after a mirrored pair; None if the pair reports a known death.

    A death counts once, even if several gateways report it.
    """
    mirrored, at = pair.mirrored, ended_at(pair.mirrored)
    last = next((death for death in reversed(deaths) if death.endpoint == mirrored.endpoint), None)
    if not mirrored.engine_died:
        if mirrored.error is not None or last is None or last.over_at is not None or mirrored.scheduled_at < last.at:
            return deaths
        return tuple(death.model_copy(update={"over_at": at}) if death is last else death for death in deaths)
    if last is not None and at - last.at < STILL_DEAD and (last.over_at is None or at < last.over_at):
        return None
    return (*deaths, ShadowDeath(at=at, endpoint=mirrored.endpoint))[-_KEPT:]
