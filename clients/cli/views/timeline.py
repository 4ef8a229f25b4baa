"""The timeline of a rollback: times and durations of its steps. Pure."""

from datetime import datetime

from clients.cli.views.render import duration
from contracts.facts import RollbackTimeline

STEPS = (
    ("first bad", "first_bad_at"),
    ("detected", "detected_at"),
    ("decided", "decided_at"),
    ("switched", "switched_at"),
    ("verified", "verified_at"),
)


def short_span(seconds: float) -> str:
    """Return a short duration as text: `36 ms`, `2.10 s`, `3 min 20 s`."""
    if abs(seconds) < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if abs(seconds) < 60.0 else duration(seconds)


def timeline_rows(timeline: RollbackTimeline) -> list[tuple[str, datetime, float | None]]:
    """Return the completed steps: name, time, and seconds since the previous step (None for the first)."""
    steps: list[tuple[str, datetime, float | None]] = []
    for name, field in STEPS:
        at = getattr(timeline, field)
        if at is not None:
            before = steps[-1][1] if steps else None
            steps.append((name, at, (at - before).total_seconds() if before is not None else None))
    return steps


def timeline_lines(timeline: RollbackTimeline) -> list[str]:
    """Return a timeline as text, one line per step."""
    lines = []
    for name, at, since in timeline_rows(timeline):
        step = "" if since is None else f"  {'+' if since >= 0 else ''}{short_span(since)}"
        lines.append(f"{name:<10} {at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}{step}")
    return lines
