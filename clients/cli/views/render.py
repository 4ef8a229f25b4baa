"""Render releases and events: for a terminal, as plain lines, and as data for JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from contracts.envelope import Event
from decisions.release_plan import needs_approval, needs_rehearsal
from decisions.release_progress import ReleaseProgress, StepProgress
from decisions.work_progress import Progress

MARKS = {"waiting": "·", "running": "…", "done": "✓", "failed": "✗"}
COLOURS = {"waiting": "dim", "running": "yellow", "done": "green", "failed": "red"}
BAR_WIDTH = 24


def duration(seconds: float) -> str:
    """Return a duration as text: `41 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def bar(progress: Progress) -> str:
    """Return a progress bar with its text."""
    filled = round(progress.ratio * BAR_WIDTH)
    return f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {progress.ratio:4.0%} {work_line(progress)}"


def work_line(progress: Progress) -> str:
    """Return the progress of work as text: `quantise gptq-int4: layer 12 of 30`."""
    name = f"{progress.step} {progress.variant}".rstrip()
    counted = f"{progress.unit.removesuffix('s')} {progress.done:.0f} of {progress.total:.0f}"
    if progress.unit == "bytes":
        counted = f"{progress.done / 1e6:.0f} of {progress.total / 1e6:.0f} MB"
    return f"{name}: {counted}" + (f", {progress.detail}" if progress.detail else "")


def headline(release: ReleaseProgress, now: datetime) -> str:
    """Return one line with the identity and the state of a release."""
    took = duration(((release.finished_at or now) - release.began_at).total_seconds())
    identity = f"{release.name}  {release.release_id or 'no release yet'}  run {release.run_id or '?'}"
    if release.outcome is not None and release.release_id is None:
        return f"{release.name}  refused before a release began  run {release.run_id or '?'}"
    if release.is_paused and release.hold is not None:
        why = f": {release.hold.reason}" if release.hold.reason else ""
        return f"{identity}  paused by {release.hold.by} at {release.hold.at:%H:%M:%S} UTC{why}"
    if release.outcome is None:
        return f"{identity}  in progress for {took}"
    return f"{identity}  {release.outcome} after {took}"


def step_line(step: StepProgress, began_at: datetime) -> str:
    """Return one line with the state of a step."""
    when = "" if step.at is None else f"+{duration((step.at - began_at).total_seconds())}"
    return f"{MARKS[step.state]} {step.title:<17}{when:>13}  {step.detail}".rstrip()


def ending(release: ReleaseProgress) -> str | None:
    """Return the outcome of a release and its reason, or None while it is in progress."""
    if release.outcome is None:
        return None
    code = f"{release.code}: " if release.code else ""
    later = f" Since then: {release.rolled_back}" if release.rolled_back else ""
    return f"{release.outcome}: {code}{release.reason}{later}"


def plain_block(release: ReleaseProgress, now: datetime) -> list[str]:
    """Return a release as lines without colours."""
    lines = [headline(release, now), *(f"  {step_line(step, release.began_at)}" for step in release.listed())]
    lines += [f"  {bar(progress)}" for progress in release.work.progress]
    end = ending(release)
    return [*lines, f"  {end}"] if end is not None else lines


def rich_block(release: ReleaseProgress, now: datetime) -> Any:
    """Return a release as a rich renderable, with a spinner while it is in progress."""
    from rich.console import Group
    from rich.spinner import Spinner
    from rich.text import Text

    rows: list[Any] = [Text(headline(release, now), style="bold")]
    rows += [Text(f"  {step_line(step, release.began_at)}", style=COLOURS[step.state]) for step in release.listed()]
    if release.outcome is None:
        for text in [bar(progress) for progress in release.work.progress] or ["working"]:
            rows.append(Spinner("dots", text=Text(f" {text}", style="yellow")))
    elif (end := ending(release)) is not None:
        serves = release.outcome == "promoted" and not release.rolled_back
        rows.append(Text(f"  {end}", style="green" if serves else "red"))
    return Group(*rows)


def as_data(release: ReleaseProgress) -> dict[str, Any]:
    """Return a release as JSON data."""
    data = asdict(release)
    data["steps"] = [asdict(step) for step in release.listed()]
    data["paused"] = release.is_paused
    data["progress"] = [asdict(progress) for progress in release.work.progress]
    for hidden in ("key", "inputs", "source_id", "work", "policy", "first", "passed", "registered", "answered"):
        del data[hidden]
    policy = release.policy
    data["manual"] = policy is not None and needs_approval(policy)
    data["rehearsal"] = policy is not None and needs_rehearsal(policy)
    return data


def event_line(event: Event[Any]) -> str:
    """Return one line with the time, model, type, sender and main fields of an event."""
    name = event.type.removeprefix("slipway.").rsplit(".", 1)[0]
    about = f"{event.time:%H:%M:%S}  {event.subject:<20} {name:<22} {event.sender:<20}"
    return f"{about} {_gist(event.data.model_dump(mode='json'))}".rstrip()


GIST = (
    "release_id",
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
    "actor",
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
