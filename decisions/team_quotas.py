"""What the quota of a team refuses. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from contracts.teams import Team

MINUTE = timedelta(minutes=1)


def in_same_minute(accepted: Iterable[datetime], at: datetime) -> tuple[datetime, ...]:
    """Return the times that count with an announcement at a time: those less than a minute away from it."""
    return tuple(time for time in accepted if abs(time - at) < MINUTE)


def find_excess_rate(team: Team, accepted: Iterable[datetime], at: datetime) -> str | None:
    """Return why an announcement of a team is one too many, as a sentence; None if it is not.

    Args:
        team: the team that owns the model.
        accepted: when the bus stored the team's announcements that were accepted.
        at: when it stored this one. Not when it is read: delivered again, or late, it is assessed alike.
    """
    limit, counted = team.quota.announcements_per_minute, in_same_minute(accepted, at)
    if limit is None or len(counted) < limit:
        return None
    wait_s = max((sorted(counted)[-limit] + MINUTE - at).total_seconds(), 0.0)
    return (
        f"{len(counted)} checkpoints of team {team.name} were accepted within a minute; its quota is {limit}. Publish "
        f"again {wait_s:.0f} s later."
    )


def find_excess_releases(team: Team, under_way: int) -> str | None:
    """Return why a release of a team is one too many, as a sentence; None if it is not."""
    limit = team.quota.releases
    if limit is None or under_way < limit:
        return None
    return (
        f"{under_way} releases of team {team.name} are under way; its quota is {limit}. Publish again when one has "
        "ended."
    )
