"""How a road looks: a block of lines for a terminal, plain lines elsewhere, plain data for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from clients.cli.views.progress import Progress
from clients.cli.views.release import Road, Step
from contracts.envelope import Event

MARKS = {"waiting": "·", "running": "…", "done": "✓", "failed": "✗"}
COLOURS = {"waiting": "dim", "running": "yellow", "done": "green", "failed": "red"}
BAR_WIDTH = 24


def duration(seconds: float) -> str:
    """Write a duration for people: `41 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def bar(progress: Progress) -> str:
    """Draw how far work is."""
    filled = round(progress.ratio * BAR_WIDTH)
    return f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {progress.ratio:4.0%} {at_work(progress)}"


def at_work(progress: Progress) -> str:
    """Return what is at work and how far: `quantise gptq-int4: layer 12 of 30`."""
    name = f"{progress.step} {progress.variant}".rstrip()
    counted = f"{progress.unit.removesuffix('s')} {progress.done:.0f} of {progress.total:.0f}"
    if progress.unit == "bytes":
        counted = f"{progress.done / 1e6:.0f} of {progress.total / 1e6:.0f} MB"
    return f"{name}: {counted}" + (f", {progress.detail}" if progress.detail else "")


def headline(road: Road, now: datetime) -> str:
    """Say in one line which release it is and how it stands."""
    took = duration(((road.finished_at or now) - road.began_at).total_seconds())
    identity = f"{road.name}  {road.release_id or 'no release yet'}  run {road.run_id or '?'}"
    if road.outcome is None:
        return f"{identity}  under way for {took}"
    return f"{identity}  {road.outcome} after {took}"


def step_line(step: Step, began_at: datetime) -> str:
    """Say in one line how a step stands."""
    when = "" if step.at is None else f"+{duration((step.at - began_at).total_seconds())}"
    return f"{MARKS[step.state]} {step.name:<12}{when:>13}  {step.detail}".rstrip()


def ending(road: Road) -> str | None:
    """Return why a release ended as it did."""
    if road.outcome is None:
        return None
    code = f"{road.code}: " if road.code else ""
    return f"{road.outcome}: {code}{road.reason}"


def plain_block(road: Road, now: datetime) -> list[str]:
    """Return the lines of a road without colours."""
    lines = [headline(road, now), *(f"  {step_line(step, road.began_at)}" for step in road.listed())]
    lines += [f"  {bar(one)}" for one in road.work.progress]
    end = ending(road)
    return [*lines, f"  {end}"] if end is not None else lines


def rich_block(road: Road, now: datetime) -> Any:
    """Return a road as something that rich can draw, with a spinner while it is under way."""
    from rich.console import Group
    from rich.spinner import Spinner
    from rich.text import Text

    rows: list[Any] = [Text(headline(road, now), style="bold")]
    rows += [Text(f"  {step_line(step, road.began_at)}", style=COLOURS[step.state]) for step in road.listed()]
    if road.outcome is None:
        for text in [bar(one) for one in road.work.progress] or ["working"]:
            rows.append(Spinner("dots", text=Text(f" {text}", style="yellow")))
    elif (end := ending(road)) is not None:
        rows.append(Text(f"  {end}", style="green" if road.outcome == "promoted" else "red"))
    return Group(*rows)


def as_data(road: Road) -> dict[str, Any]:
    """Return a road as JSON data."""
    data = asdict(road)
    data["steps"] = [asdict(step) for step in road.listed()]
    data["progress"] = [asdict(one) for one in road.work.progress]
    for hidden in ("key", "inputs", "source_id", "work"):
        del data[hidden]
    return data


def event_line(event: Event[Any]) -> str:
    """Say in one line what an event says."""
    name = event.type.removeprefix("slipway.").rsplit(".", 1)[0]
    return f"{event.time:%H:%M:%S}  {event.subject:<20} {name:<22} {_gist(event.data.model_dump(mode='json'))}".rstrip()


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
