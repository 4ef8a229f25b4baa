"""Render releases and events: for a terminal, as plain lines, and as data for JSON."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from clients.cli.output import size_text
from clients.cli.releases.recorded_releases import Release
from contracts.envelope import Event, short_type
from contracts.facts import WorkProgressed
from contracts.facts.progress import ReleaseProgress, StepProgress

MARKS = {"waiting": "·", "running": "…", "done": "✓", "failed": "✗"}


def duration(seconds: float) -> str:
    """Return a duration as text: `41 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def work_line(work: WorkProgressed) -> str:
    """Return the progress of work as text: `quantise gptq-int4: layer 12 of 30`."""
    name = f"{work.step} {work.variant or ''}".rstrip()
    counted = f"{work.unit.removesuffix('s')} {work.done:.0f} of {work.total:.0f}"
    if work.unit == "bytes":
        counted = f"{size_text(work.done)} of {size_text(work.total)}"
    return f"{name}: {counted}" + (f", {work.detail}" if work.detail else "")


def headline(release: ReleaseProgress, now: datetime) -> str:
    """Return one line with the identity and the state of a release."""
    took = duration(((release.finished_at or now) - release.opened_at).total_seconds())
    identity = f"{release.name}  {release.release_id or 'no release yet'}  run {release.run_id or '?'}"
    if release.outcome is not None and release.release_id is None:
        return f"{release.name}  refused before a release began  run {release.run_id or '?'}"
    if release.paused:
        return f"{identity}  {release.paused}"
    if release.outcome is None:
        return f"{identity}  in progress for {took}"
    return f"{identity}  {release.outcome} after {took}"


def step_line(step: StepProgress, opened_at: datetime) -> str:
    """Return one line with the state of a step."""
    when = "" if step.at is None else f"+{duration((step.at - opened_at).total_seconds())}"
    return f"{MARKS[step.state]} {step.title:<17}{when:>13}  {step.detail}".rstrip()


def ending(release: Release) -> str | None:
    """Return the outcome of a release and its reason, or None while it is in progress."""
    progress = release.progress
    if progress.outcome is None:
        return None
    code = f"{progress.code}: " if progress.code else ""
    later = f" Since then: {release.rolled_back}" if release.rolled_back else ""
    return f"{progress.outcome}: {code}{progress.reason}{later}"


def block(release: Release, now: datetime) -> list[str]:
    """Return a release as lines: headline, steps, outcome."""
    progress, end = release.progress, ending(release)
    lines = [headline(progress, now), *(f"  {step_line(step, progress.opened_at)}" for step in progress.steps)]
    return [*lines, f"  {end}"] if end is not None else lines


def as_data(release: Release, work: Iterable[WorkProgressed] = ()) -> dict[str, Any]:
    """Return a release as JSON data."""
    data = release.progress.model_dump(mode="json")
    reports = [each.model_dump(mode="json") for each in work]
    return {**data, "rolled_back": release.rolled_back, "progress": reports}


def event_line(event: Event[Any]) -> str:
    """Return one line with the time, model, type, sender and main fields of an event."""
    about = f"{event.time:%H:%M:%S}  {event.subject:<20} {short_type(event.type):<22} {event.sender:<20}"
    return f"{about} {_gist(event.data.model_dump(mode='json'))}".rstrip()


GIST = (
    "release_id",
    "kind",
    "name",
    "version",
    "variant",
    "target",
    "failed",
    "to",
    "outcome",
    "code",
    "verdict",
    "step",
    "done",
    "total",
    "unit",
    "cause",
    "deadline_at",
    "reason",
    "order_type",
    "message",
)


def _gist(data: Mapping[str, Any]) -> str:
    shown = []
    for key in GIST:
        value = data.get(key)
        if value in (None, ""):
            continue
        if key in ("target", "failed", "to") and isinstance(value, dict):
            inner = value.get("target", value)
            value = f"{inner.get('model')}.v{inner.get('version')}.{inner.get('variant')}"
        if isinstance(value, float):
            value = f"{value:g}"
        shown.append(f"{key}={value}")
    return " ".join(shown)
