"""The state machine of a release: a pure, total function from a record and an input to a record and facts to publish.

Every fact has a field in the record; the first to arrive fills it, early ones are kept, later ones change nothing. The
facts to publish are derived from these fields alone, so that neither order nor repetition of facts matters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from contracts.facts import (
    ApprovalRequested,
    DeadlinePassed,
    Fact,
    ReleaseFinished,
    ReleaseOpened,
    ReleaseProgressed,
    TimelineStep,
)
from contracts.records import OutboxEntry, outbox_entry
from contracts.vocabulary import StagingPurpose
from services.registry.domain import gates, outcomes, plan
from services.registry.domain.plan import Emission
from services.registry.domain.progress import progress_of
from services.registry.domain.record import Input, Release
from services.registry.domain.recording import record
from services.registry.domain.release_holds import begins_step


@dataclass(frozen=True)
class Decision:
    """The new record, and the facts that its outbox gained by this input."""

    release: Release
    publish: tuple[OutboxEntry, ...]


def open_release(opened: ReleaseOpened, *, cause_id: str, now: datetime) -> Decision:
    """Return a new release; its first fact is its own opening."""
    return _advance(Release(opened=opened, opened_at=now), cause_id, now)


def decide(release: Release, received: Input, now: datetime) -> Decision:
    """Return the release after an input, and the facts that follow; never raise. Other inputs change nothing."""
    if release.finished is not None or received.id in release.applied:
        return Decision(release, ())
    recorded = record(release, received, now)
    if recorded is None:
        return Decision(release, ())
    applied = tuple(sorted((*recorded.applied, received.id)))
    return _advance(recorded.model_copy(update={"applied": applied}), received.cause_id or received.id, now)


def _advance(release: Release, cause_id: str, now: datetime) -> Decision:
    """Return the release with every fact in its outbox that is due now and was not emitted before.

    The first of them is its progress, whenever that has changed.
    """
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
    ending = outcomes.decide_ending(release, now)
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
    yield "release.finished", _finished(release, ending, now)


def _finished(release: Release, ending: outcomes.Ending, now: datetime) -> ReleaseFinished:
    return ReleaseFinished(
        release_id=release.id,
        model=release.model,
        version=release.version,
        outcome=ending.outcome,
        code=ending.code,
        reason=ending.reason,
        target=plan.chosen_target(release) if ending.outcome == "promoted" else None,
        returned_by=release.opened.source_event_id if release.opened.returns is not None else "",
        timeline=_timeline(release, now),
    )


def _timeline(release: Release, now: datetime) -> tuple[TimelineStep, ...]:
    """List the steps of a release in the order in which they happened, each with the seconds since the one before."""
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
