"""Data of the release page, from the release's events. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from contracts.facts.progress import ReleaseProgress
from contracts.facts.staging import NaturalAnswers
from contracts.vocabulary import Variant
from decisions.releases.work_progress import ongoing
from decisions.rollback.drills import describe_detection
from services.console.domain.release_data import (
    Approval,
    Certificate,
    Release,
    Step,
    VariantRow,
)
from services.console.domain.rows import instant
from services.console.domain.screens import EventRow

Events = Sequence[Event[Any]]


def build_release(events: Events, live: Iterable[Event[Any]], history: tuple[EventRow, ...]) -> Release | None:
    """Return the data of the release page; None if the opening or the progress is missing.

    Args:
        events: The release's events, in order of time.
        live: The newest progress of its running work.
        history: The release's history.
    """
    progressed, opened = last(events, f.ReleaseProgressed), last(events, f.ReleaseOpened)
    if progressed is None or opened is None:
        return None
    progress: ReleaseProgress = progressed.progress
    evaluated: f.VariantEvaluated | None = last(events, f.VariantEvaluated)
    return Release(
        release_id=opened.release_id,
        model=progress.model,
        version=progress.version,
        state=progress.state,
        paused=progress.paused[:1].upper() + progress.paused[1:],
        outcome=progress.outcome,
        code=progress.code,
        reason=progress.reason,
        rolled_back="",
        opened_at=instant(progress.opened_at) or "",
        run_id=progress.run_id,
        base=f"{opened.base.name}@{opened.base.revision}",
        data_hash=opened.training.data_hash,
        weights_digest=opened.weights.ref.digest,
        publishers=progress.publishers,
        steps=tuple(_steps(progress)),
        work=ongoing(progress, live),
        variants=tuple(variants_of(events, progress.variants)),
        gates=tuple(gates_of(events)),
        evaluations=evaluated.results if evaluated is not None else (),
        shadow=last(events, f.ShadowAssessed),
        canary=tuple(_canary(events)),
        rehearsal=tuple(_rehearsal(events)),
        approval=_approval(events, progress),
        policy=opened.policy.model_dump(mode="json", exclude_none=True),
        history=history,
    )


def last(events: Events, kind: type[f.Fact]) -> Any:
    """Return the data of the last event of a type; None if there is none."""
    return next((event.data for event in reversed(events) if isinstance(event.data, kind)), None)


def _steps(progress: ReleaseProgress) -> Iterable[Step]:
    for step in progress.steps:
        elapsed = None if step.at is None else round((step.at - progress.opened_at).total_seconds(), 3)
        yield Step(
            name=step.name,
            title=step.title,
            state=step.state,
            at=instant(step.at),
            elapsed_s=elapsed,
            detail=step.detail,
        )


def gates_of(events: Events) -> Iterable[tuple[str, f.GateResult]]:
    """Yield variant and gate result, from each variant's last benchmark."""
    benchmarks = {event.data.target.variant: event.data for event in events if _is(event, f.VariantBenchmarked)}
    return ((variant, gate) for variant, benchmark in benchmarks.items() for gate in benchmark.gates)


def _is(event: Event[Any], kind: type[f.Fact]) -> bool:
    return isinstance(event.data, kind)


def variants_of(events: Events, requested: Sequence[Variant]) -> Iterable[VariantRow]:
    """Yield the requested variants with their measurements and the registry's comparison."""
    measured = {event.data.target.variant: event.data for event in events if _is(event, f.VariantBenchmarked)}
    progressed = last(events, f.ReleaseProgressed)
    comparison = progressed.progress.comparison if progressed is not None else None
    compared = {row.variant: row for row in comparison.variants} if comparison is not None else {}
    for name in requested:
        row, benchmark = compared.get(name), measured.get(name)
        if row is None or comparison is None:
            yield VariantRow(variant=name, state="waiting")
            continue
        state = row.verdict if row.is_judged else "waiting" if row.size_bytes is None else "quantised"
        candidate, baseline = (benchmark.candidate_summary, benchmark.baseline_summary) if benchmark else (None, None)
        yield VariantRow(
            **{**row.model_dump(), "reason": row.reason if row.is_judged else ""},
            state=state,
            chosen=comparison.winner == name,
            baseline_ttft_p95_ms=baseline.ttft_ms.p95 if baseline else None,
            endings=_endings(candidate.natural, baseline.natural) if candidate and baseline else "",
        )


def _endings(candidate: NaturalAnswers | None, baseline: NaturalAnswers | None) -> str:
    if candidate is None or baseline is None:
        return ""
    return (
        f"{candidate.ended} of {candidate.asked} answers end by themselves ({candidate.mean_tokens:.0f} tokens on "
        f"average), {baseline.ended} of the active version's ({baseline.mean_tokens:.0f})."
    )


def _canary(events: Events) -> Iterable[f.CanaryAssessed]:
    """Return the last assessment of each share, in order of time."""
    steps: dict[float, f.CanaryAssessed] = {}
    for event in events:
        if isinstance(event.data, f.CanaryAssessed):
            steps.pop(event.data.weight_ratio, None)
            steps[event.data.weight_ratio] = event.data
    return steps.values()


def _rehearsal(events: Events) -> Iterable[Certificate]:
    rehearsed = last(events, f.RehearsalCompleted)
    for certificate in rehearsed.certificates if rehearsed is not None else ():
        yield Certificate(
            trigger=certificate.trigger,
            fault=certificate.fault,
            detection=describe_detection(certificate),
            detect_s=certificate.detect_s,
            switch_s=certificate.switch_s,
            verify_s=certificate.verify_s,
        )


def _approval(events: Events, progress: ReleaseProgress) -> Approval | None:
    asked = last(events, f.ApprovalRequested)
    if asked is None:
        return None
    waits = any(step.name == "approved" and step.state == "running" for step in progress.steps)
    return Approval(
        manifest_digest=asked.manifest_digest,
        target=str(asked.target),
        deadline_at=instant(asked.deadline_at) or "",
        needed=asked.approvals,
        given=progress.approvers,
        open=waits,
    )
