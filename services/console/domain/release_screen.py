"""The screen of a release, from the events of the release. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from contracts.progress import ReleaseProgress
from decisions.work_progress import ongoing
from services.console.domain.release_data import (
    Approval,
    CanaryStep,
    Certificate,
    Gate,
    Release,
    ShadowStep,
    Step,
    VariantRow,
    Work,
)
from services.console.domain.rows import instant
from services.console.domain.screens import EventRow

Events = Sequence[Event[Any]]


def build_release(events: Events, live: Iterable[Event[Any]], history: tuple[EventRow, ...]) -> Release | None:
    """Return the screen of a release; None if its opening or its progress is not among its events.

    Args:
        events: Its events, in the order of time.
        live: The newest progress of work on it.
        history: The entries of its history.
    """
    progressed, opened = last(events, f.ReleaseProgressed), last(events, f.ReleaseOpened)
    if progressed is None or opened is None:
        return None
    progress: ReleaseProgress = progressed.progress
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
        finished_at=instant(progress.finished_at),
        run_id=progress.run_id,
        base=f"{opened.base.name}@{opened.base.revision}",
        data_hash=opened.training.data_hash,
        weights_digest=opened.weights.ref.digest,
        publishers=progress.publishers,
        steps=tuple(_steps(progress)),
        work=tuple(_work(work) for work in ongoing(progress, live)),
        variants=tuple(variants_of(events, progress.variants)),
        gates=tuple(gates_of(events)),
        shadow=_shadow(events),
        canary=tuple(_canary(events)),
        rehearsal=tuple(_rehearsal(events)),
        approval=_approval(events, progress),
        policy=opened.policy.model_dump(mode="json", exclude_none=True),
        history=history,
    )


def last(events: Events, kind: type[f.Fact]) -> Any:
    """Return the data of the last event of a kind; None if there is none."""
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


def _work(work: f.WorkProgressed) -> Work:
    return Work(
        step=work.step,
        variant=work.variant or "",
        done=work.done,
        total=work.total,
        unit=work.unit,
        detail=work.detail,
        ratio=work.ratio,
    )


def gates_of(events: Events) -> Iterable[Gate]:
    """Yield the gates of the last benchmark of each variant."""
    benchmarks = {event.data.target.variant: event.data for event in events if _is(event, f.VariantBenchmarked)}
    for variant, benchmark in benchmarks.items():
        for gate in benchmark.gates:
            yield Gate(
                variant=variant,
                name=gate.name,
                verdict=gate.verdict,
                value=gate.value,
                limit=gate.limit,
                reason=gate.reason,
                code=gate.code,
            )


def _is(event: Event[Any], kind: type[f.Fact]) -> bool:
    return isinstance(event.data, kind)


def variants_of(events: Events, requested: Sequence[str]) -> Iterable[VariantRow]:
    """Yield the requested variants with what was measured of each."""
    quantised = {event.data.variant: event.data for event in events if _is(event, f.VariantQuantised)}
    failed = {event.data.variant: event.data for event in events if _is(event, f.VariantFailed)}
    measured = {event.data.target.variant: event.data for event in events if _is(event, f.VariantBenchmarked)}
    comparison = _comparison(events)
    compared: dict[str, f.ComparedVariant] = {}
    if comparison is not None:
        compared = {variant.variant: variant for variant in comparison.variants}
    for name in requested:
        files, failure, benchmark = (known.get(name) for known in (quantised, failed, measured))
        row = compared.get(name)
        summary = benchmark.candidate_summary if benchmark is not None else None
        verdict = row.verdict if row is not None else benchmark.verdict if benchmark is not None else None
        state = "failed" if failure is not None else verdict or ("quantised" if files is not None else "waiting")
        yield VariantRow(
            variant=name,
            state=state,
            chosen=comparison is not None and comparison.winner == name,
            on_pareto_front=row is not None and row.on_pareto_front,
            reason=failure.reason if failure is not None else row.reason if row is not None else "",
            code=failure.code if failure is not None else row.code if row is not None else None,
            size_bytes=files.weights_bytes if files is not None else None,
            size_ratio=files.size_ratio if files is not None else None,
            perplexity_ratio=files.quality.perplexity_ratio if files is not None else None,
            mean_kl=files.quality.mean_kl if files is not None else None,
            ttft_p50_ms=summary.ttft_ms.p50 if summary is not None else None,
            ttft_p95_ms=summary.ttft_ms.p95 if summary is not None else None,
            baseline_ttft_p95_ms=benchmark.baseline_summary.ttft_ms.p95 if benchmark is not None else None,
            tps=summary.tps_system if summary is not None else None,
        )


def _comparison(events: Events) -> f.Comparison | None:
    """Return the last comparison of the variants that an event has."""
    comparisons = (getattr(event.data, "comparison", None) for event in reversed(events))
    return next((comparison for comparison in comparisons if comparison is not None), None)


def _shadow(events: Events) -> ShadowStep | None:
    event = next((event for event in reversed(events) if _is(event, f.ShadowAssessed)), None)
    if event is None:
        return None
    data = event.data
    return ShadowStep(
        share=data.share_ratio,
        verdict=data.verdict,
        requests=data.requests,
        requests_needed=data.requests_needed,
        seconds_needed=data.seconds_needed,
        reason=data.reason,
        at=instant(event.time) or "",
        counts=data.counts,
    )


def _canary(events: Events) -> Iterable[CanaryStep]:
    steps = {event.data.weight_ratio: event for event in events if _is(event, f.CanaryAssessed)}
    for weight, event in sorted(steps.items()):
        data = event.data
        yield CanaryStep(
            weight=weight,
            verdict=data.verdict,
            requests=data.requests,
            requests_needed=data.requests_needed,
            reason=data.reason,
            at=instant(event.time) or "",
            e_values=data.e_values,
            counts=data.counts,
        )


def _rehearsal(events: Events) -> Iterable[Certificate]:
    rehearsed = last(events, f.RehearsalCompleted)
    for certificate in rehearsed.certificates if rehearsed is not None else ():
        yield Certificate(
            trigger=certificate.trigger,
            fault=certificate.fault,
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
