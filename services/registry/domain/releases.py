"""The state machine of a release: a pure, total function from record and input to a new record and facts to publish.

Each fact fills its field once, early or late; repeats change nothing. Emitted facts depend on these fields alone, so
neither order nor repetition of inputs matters. A release ends in exactly one outcome, with a code and a reason.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, get_args

from contracts.codes import Code
from contracts.facts import (
    ApprovalRequested,
    DeadlinePassed,
    Fact,
    ReleaseFinished,
    ReleaseOpened,
    ReleaseProgressed,
    TimelineStep,
)
from contracts.facts.progress import Outcome
from contracts.records import OutboxEntry, outbox_entry
from contracts.vocabulary import StagingPurpose
from services.registry.domain import evaluations, gates, plan, rehearsals
from services.registry.domain.orders import is_past_approval
from services.registry.domain.plan import Emission
from services.registry.domain.progress import progress_of
from services.registry.domain.record import Input, Release
from services.registry.domain.recording import record
from services.registry.domain.release_holds import begins_step

NOT_SERVABLE: Final[frozenset[Code]] = frozenset({"variant_not_servable", "runtime_unknown"})
"""Codes by which the serving fleet refuses a variant before any work begins."""


@dataclass(frozen=True)
class Ending:
    """The outcome of a release, with code and reason."""

    outcome: Outcome
    code: Code | None
    reason: str


def decide_ending(release: Release, now: datetime) -> Ending | None:
    """Return how a release ends; None while it continues.

    A release whose target takes all traffic is promoted, whatever else was received.
    """
    if plan.is_promoted(release, now):
        return _promoted(release)
    rehearsal_failed = _rehearsal_failed(release, now)
    if rehearsal_failed is not None:
        return rehearsal_failed
    for ending in _ENDINGS:
        decided = ending(release)
        if decided is not None:
            return decided
    return None


def _promoted(release: Release) -> Ending:
    reason = f"{plan.chosen_target(release)} takes all production traffic."
    if release.turn is not None and release.turn.first:
        reason += " It is the model's first release, so there was no canary."
    if release.cancelled is not None:
        reason += " The order to cancel came after all traffic had been ordered; use a rollback."
    return Ending("promoted", None, reason)


def _rejected(release: Release) -> Ending | None:
    fact = release.rejected
    return None if fact is None else Ending("rejected", fact.code, fact.reason)


def _nothing_servable(release: Release) -> Ending | None:
    """End the release early if the fleet's hardware or runtimes can serve none of the requested variants."""
    answers = [release.failed.get(f"{variant}:stage") for variant in gates.requested_variants(release)]
    refused = [fact for fact in answers if fact is not None and fact.code in NOT_SERVABLE]
    if len(refused) < len(answers):
        return None
    reasons = " ".join(dict.fromkeys(fact.reason for fact in refused))
    return Ending("rejected", refused[0].code, f"No requested variant can be served. {reasons}")


def _nothing_quantised(release: Release) -> Ending | None:
    if not gates.all_quantised(release) or gates.registered_variants(release):
        return None
    return _no_variant(release)


def _nothing_passed(release: Release) -> Ending | None:
    if release.turn is None or not gates.all_judged(release) or gates.choose(release) is not None:
        return None
    return _no_variant(release)


def _no_variant(release: Release) -> Ending:
    """End as rejected with the first conclusive code; codes of later steps take precedence."""
    registered = [registered.variant for registered in gates.registered_variants(release)]
    judged = [(v, *verdict[1:]) for v in registered if (verdict := gates.verdict_on(release, v)) is not None]
    variants = gates.requested_variants(release)
    excluded = [(v, *why) for v in variants if (why := gates.why_excluded(release, v)) is not None]
    codes = [code for _, code, _ in (*judged, *excluded) if code != "inconclusive"]
    reasons = "; ".join(f"{variant}: {reason.rstrip('.')}" for variant, _, reason in (*judged, *excluded))
    return Ending("rejected", codes[0] if codes else "inconclusive", f"No variant passed. {reasons}.")


def _evaluation_failed(release: Release) -> Ending | None:
    evaluated = evaluations.assess_evaluations(release)
    if evaluated is None or evaluated[0] == "pass":
        return None
    _, code, reason = evaluated
    return Ending("rejected", code, f"The evaluations were not passed: {reason.rstrip('.')}.")


def _rehearsal_failed(release: Release, now: datetime) -> Ending | None:
    rehearsal = rehearsals.assess_rehearsal(release, now)
    if rehearsal is None or rehearsal[0] == "pass":
        return None
    return Ending("rejected", "rehearsal_failed", rehearsal[1])


def _canary_failed(release: Release) -> Ending | None:
    failed = [assessed for assessed in release.assessed.values() if assessed.verdict == "fail"]
    if not failed:
        return None
    return Ending("aborted", "gate_failed", f"The canary failed at {failed[0].weight_ratio:g}: {failed[0].reason}")


def _shadow_failed(release: Release) -> Ending | None:
    failed = release.shadowed
    if failed is None or failed.verdict != "fail":
        return None
    return Ending("aborted", "gate_failed", f"The shadow failed before any caller was served: {failed.reason}")


def _rolled_back(release: Release) -> Ending | None:
    route = release.route
    if route is None or (release.turn is not None and route.epoch < release.turn.epoch):
        return None
    ours = [target for target in route.quarantined if release.is_ours(target)]
    if ours and release.opened.returns is not None:
        return Ending("aborted", "quarantined", f"{ours[0]} was left again, and a person decides about it.")
    if ours:
        return Ending("aborted", "quarantined", f"{ours[0]} was rolled back.")
    newest = max((deployed.epoch for deployed in release.deployed.values()), default=None)
    if newest is not None and route.epoch > newest and not any(release.is_ours(t) for t in route.serving):
        return Ending("aborted", "stale_epoch", f"The route moved on to epoch {route.epoch} and dropped the candidate.")
    return None


def _abandoned(release: Release) -> Ending | None:
    fact = release.abandoned
    if fact is None:
        return None
    reason = f"{fact.service} gave up on {fact.cause_type} ({fact.code}: {fact.reason}); "
    return Ending("rejected", "work_abandoned", reason + f"dead letter {fact.dead_letter_sequence}.")


def _denied(release: Release) -> Ending | None:
    fact = release.denied
    if fact is None or is_past_approval(release):
        return None
    return Ending("rejected", "approval_denied", f"{fact.sender}: {fact.order.reason}")


def _cancelled(release: Release) -> Ending | None:
    fact = release.cancelled
    too_late = plan.outstanding_order(release) == plan.ALL_TRAFFIC and release.refused is None and not release.expired
    if fact is None or too_late:
        return None
    return Ending("cancelled", "cancelled", f"{fact.sender}: {fact.order.reason}")


def _refused(release: Release) -> Ending | None:
    fact = release.refused
    return None if fact is None or plan.is_ordered_again(release) else Ending("rejected", fact.code, fact.reason)


def _overtaken(release: Release) -> Ending | None:
    """End as superseded if a newer version already serves."""
    turn = release.turn
    if turn is None or turn.first or turn.baseline.target.version <= release.version:
        return None
    return Ending("superseded", "superseded", f"{turn.baseline.target} is newer and serves production already.")


def _superseded(release: Release) -> Ending | None:
    traffic_ordered = any(key.startswith("traffic.requested:") for key in release.emitted)
    if release.superseded is None or traffic_ordered:
        return None
    return Ending("superseded", "superseded", f"{release.superseded.by} is newer, and the policy says supersede.")


def _expired(release: Release) -> Ending | None:
    if release.expired is None:
        return None
    code: Code = "approval_expired" if release.expired == "approval" else "deadline_passed"
    return Ending("expired", code, f"The step {release.expired} took longer than the policy allows.")


_ENDINGS: tuple[Callable[[Release], Ending | None], ...] = (
    _rejected,
    _nothing_servable,
    _nothing_quantised,
    _nothing_passed,
    _evaluation_failed,
    _shadow_failed,
    _canary_failed,
    _rolled_back,
    _abandoned,
    _denied,
    _cancelled,
    _refused,
    _overtaken,
    _superseded,
    _expired,
)


@dataclass(frozen=True)
class Decision:
    """The new record, and the facts that this input added to its outbox."""

    release: Release
    publish: tuple[OutboxEntry, ...]


def open_release(opened: ReleaseOpened, *, cause_id: str, now: datetime) -> Decision:
    """Return a new release with its opening as the first fact."""
    return _advance(Release(opened=opened, opened_at=now), cause_id, now)


def decide(release: Release, received: Input, now: datetime) -> Decision:
    """Apply an input to a release; return the new record and the facts to publish. Never raises."""
    if release.finished is not None or received.id in release.applied:
        return Decision(release, ())
    recorded = record(release, received, now)
    if recorded is None:
        return Decision(release, ())
    applied = tuple(sorted((*recorded.applied, received.id)))
    return _advance(recorded.model_copy(update={"applied": applied}), received.cause_id or received.id, now)


def _advance(release: Release, cause_id: str, now: datetime) -> Decision:
    """Return the release with all newly due facts in its outbox, preceded by its progress if that changed."""
    fresh = {key: fact for key, fact in _emissions(release, now) if key not in release.emitted}
    finished = [fact for fact in fresh.values() if isinstance(fact, ReleaseFinished)]
    asked = [fact.manifest_digest for fact in fresh.values() if isinstance(fact, ApprovalRequested)]
    update = {
        "emitted": {**release.emitted, **dict.fromkeys(fresh, now)},
        "finished": finished[0] if finished else None,
        "asked": asked[0] if asked else release.asked,
    }
    after = release.model_copy(update=update)
    progress = progress_of(after)
    facts: dict[str, Fact] = {}
    if progress != release.progress:
        changed = ReleaseProgressed(release_id=release.id, progress=progress)
        facts[f"release.progressed:{len(release.applied)}"] = changed
    entries = tuple(
        outbox_entry(
            fact,
            model=release.model,
            key=f"{release.id}:{key}",
            cause_id=cause_id,
            correlation_id=release.id,
            decided_at=now,
        )
        for key, fact in (facts | fresh).items()
    )
    outbox = (*release.outbox, *entries)
    return Decision(after.model_copy(update={"progress": progress, "outbox": outbox}), entries)


def _emissions(release: Release, now: datetime) -> Iterator[Emission]:
    ending = decide_ending(release, now)
    emitted = set(release.emitted)
    if ending is None or ending.outcome == "promoted":
        for key, fact in plan.due(release, now):
            if ending is None and release.is_paused and begins_step(key) and key not in emitted:
                continue
            emitted.add(key)
            yield key, fact
    if ending is None:
        return
    if ending.outcome == "expired":
        passed = DeadlinePassed(release_id=release.id, step=release.expired or "", waiting_for=release.expired or "")
        yield f"deadline.passed:{release.expired}", passed
    for registered in gates.registered_variants(release):
        for purpose in get_args(StagingPurpose):
            if f"stage.requested:{plan.lease_key(registered.variant, purpose)}" in emitted:
                yield plan.stage_released(release, registered.variant, purpose)
    yield (
        "release.finished",
        ReleaseFinished(
            release_id=release.id,
            model=release.model,
            version=release.version,
            outcome=ending.outcome,
            code=ending.code,
            reason=ending.reason,
            target=plan.chosen_target(release) if ending.outcome == "promoted" else None,
            returned_by=release.opened.source_event_id if release.opened.returns is not None else "",
            timeline=_timeline(release, now),
        ),
    )


def _timeline(release: Release, now: datetime) -> tuple[TimelineStep, ...]:
    """Return the release's timeline in order of time; `duration_s` counts from the previous step."""
    moments = [("opened", release.opened_at), *release.times.items(), ("finished", now)]
    ordered = sorted(moments, key=lambda moment: (moment[0] == "finished", moment[0] != "opened", moment[1], moment[0]))
    steps = []
    before = release.opened_at
    for name, at in ordered:
        steps.append(
            TimelineStep(step=name.replace(":", " "), at=at, duration_s=max((at - before).total_seconds(), 0.0))
        )
        before = max(before, at)
    return tuple(steps)
