"""Judges a suspended version by its shadow: pairs of the trigger that suspended it, in blocks of 2 s. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.facts import MirroredPair, SuspensionJudged
from contracts.policy import JUDGEMENT_S, Trigger
from contracts.records import outbox_entry
from contracts.routes import Route
from decisions.evidence.alerts import Finding
from decisions.evidence.block_tests import BLOCK_S
from decisions.evidence.triggers import limit_of
from decisions.evidence.version_tests import JudgementVerdict, Pair, decide_judgement, observe_pairs
from decisions.rollback.suspensions import CLEAR_BETA, CONFIRM_ALPHA, describe_share, describe_suspended
from services.monitor.domain.observation import count_pair, outcomes_of_pair
from services.monitor.domain.record import Judged, MonitorState, Policy
from services.monitor.domain.shadow import MOST_DEATHS, note_shadow_pair

KEY: Final = "suspended"


def follow(state: MonitorState, route: Route, now: datetime) -> dict[str, Any]:
    """Return the record's fields `judged` and `undecided` after a change of the route."""
    judged = [
        f"{entry.served.target}: {describe_suspended(route, entry)}"
        for entry in route.suspended
        if entry.verdict and not entry.returned_by
    ]
    return {"judged": _find_judged(state.judged, route, now), "undecided": "; ".join(judged)}


def _find_judged(known: Judged | None, route: Route, now: datetime) -> Judged | None:
    entry, active = route.judged, route.active
    if entry is None or active is None:
        is_held = known is not None and any(
            (known.target, known.since) == (held.served.target, held.since) and held.verdict is None
            for held in route.suspended
        )
        return known.model_copy(update={"asked": False}) if known is not None and is_held else None
    target, other = entry.served.target, active.target
    if known is not None and (known.target, known.since, known.other) == (target, entry.since, other):
        return known if known.asked else known.model_copy(update={"asked": True, "block_at": now})
    return Judged(target=target, other=other, since=entry.since, trigger=entry.trigger, block_at=now)


def observe(state: MonitorState, pairs: Sequence[MirroredPair]) -> MonitorState:
    """Add pairs of the suspended version to its open block, except requests of drills.

    Each death of its engine counts once.
    """
    judged = state.judged
    policy, trigger = _trigger_of(state)
    if judged is None or policy is None or trigger is None or not judged.asked or judged.verdict is not None:
        return state
    for pair in pairs:
        is_its = (pair.mirrored.target, pair.served.target) == (judged.target, judged.other)
        if not (pair.shadow and is_its) or pair.served.drill is not None or pair.mirrored.drill is not None:
            continue
        deaths = note_shadow_pair(judged.deaths, pair)
        if deaths is None:
            continue
        judged = _with_pair(judged.model_copy(update={"deaths": deaths}), trigger, pair, policy.triggers)
    return state.model_copy(update={"judged": judged})


def _with_pair(judged: Judged, trigger: Trigger, pair: MirroredPair, declared: Sequence[Trigger]) -> Judged:
    outcomes = outcomes_of_pair(trigger, pair, declared)
    if outcomes is None:
        return judged
    other, target = outcomes
    counts = count_pair(judged.counts, target=target, other=other)
    pairs = (*judged.pairs, (pair.served.holder or "", target, other))
    return judged.model_copy(update={"pairs": pairs, "counts": counts})


def settle(state: MonitorState, cause_id: str, now: datetime) -> MonitorState:
    """Count the finished blocks (`BLOCK_S` each) of a suspended version's pairs; once decided, publish its verdict."""
    judged = state.judged
    policy, trigger = _trigger_of(state)
    if judged is None or judged.verdict is not None:
        return state
    blocks = int((now - judged.block_at).total_seconds() // BLOCK_S)
    if judged.asked and blocks > 0:
        update: dict[str, Any] = {"blocks": judged.blocks + blocks, "pairs": ()}
        update["block_at"] = judged.block_at + timedelta(seconds=blocks * BLOCK_S)
        if trigger is not None:
            pairs = [Pair(key, target, other) for key, target, other in judged.pairs]
            update["judgement"] = observe_pairs(judged.judgement, limit_of(trigger), pairs, blocks=blocks)
        judged = judged.model_copy(update=update)
    verdict = _decide(judged, policy)
    judged = judged.model_copy(update={"verdict": verdict})
    if judged == state.judged:
        return state
    state = state.model_copy(update={"judged": judged})
    if verdict is None:
        return state
    entry = outbox_entry(
        SuspensionJudged(
            target=judged.target,
            since=judged.since,
            trigger=judged.trigger,
            verdict=verdict,
            pairs=judged.counts,
            reason=_reason(judged),
            returns=policy is not None and policy.after_move == "canary" and bool(policy.canary.steps),
        ),
        model=state.model,
        environment=state.environment,
        key=f"{judged.target}:{judged.since.isoformat()}",
        cause_id=cause_id,
        correlation_id=policy.release_id if policy else cause_id,
        decided_at=now,
    )
    return state.model_copy(update={"outbox": (*state.outbox, entry)})


def _decide(judged: Judged, policy: Policy | None) -> JudgementVerdict | None:
    if len(judged.deaths) > MOST_DEATHS:
        return "confirmed"
    verdict = decide_judgement(judged.judgement, alpha=CONFIRM_ALPHA, beta=CLEAR_BETA)
    if verdict != "undecided":
        return verdict
    lasts_s = policy.judgement_s if policy is not None else JUDGEMENT_S
    return "undecided" if judged.blocks * BLOCK_S >= lasts_s else None


def find_undecided(state: MonitorState) -> Finding:
    """Return the finding on suspended versions: it fires while one awaits an operator's decision."""
    waits = bool(state.undecided)
    return Finding(
        key=KEY,
        kind="suspended",
        severity="critical" if ": undecided, " in state.undecided else "warning",
        trigger=None,
        fired=waits,
        calm=not waits,
        hold_s=0.0,
        message=state.undecided or "No suspended version waits for a person.",
    )


def _trigger_of(state: MonitorState) -> tuple[Policy | None, Trigger | None]:
    """Return the judged version's policy, and the trigger that suspended it; None if unknown."""
    judged = state.judged
    policy = state.policies.get(str(judged.target.version)) if judged is not None else None
    if judged is None or policy is None:
        return None, None
    return policy, next((trigger for trigger in policy.triggers if trigger.name == judged.trigger), None)


def _reason(judged: Judged) -> str:
    counts, asked, deaths = judged.counts, judged.counts.total, len(judged.deaths)
    if not asked:
        return f"No request was answered by both {judged.target} and {judged.other}."
    own, others = (describe_share(counts.both + only, asked) for only in (counts.only_target, counts.only_other))
    died = f" Its engine died {deaths} times of requests that the other version answered." if deaths else ""
    return (
        f"Of {asked} requests of {len(judged.judgement.asked)} callers to both versions, {own} were bad on "
        f"{judged.target} and {others} were bad on {judged.other} ({judged.trigger}).{died}"
    )
