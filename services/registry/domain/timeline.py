"""When each step of a release happened, for the people who read its end."""

from datetime import datetime

from contracts.facts import TimelineStep
from services.registry.domain.record import Release


def timeline(release: Release, now: datetime) -> tuple[TimelineStep, ...]:
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
