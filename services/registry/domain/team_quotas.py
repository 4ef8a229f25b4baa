"""The limits of a team's quota. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from contracts.teams import Team
from services.registry.domain.admission import Refusal

MINUTE = timedelta(minutes=1)


def assess_releases(team: Team | None, under_way: int) -> Refusal | None:
    """Refuse a release beyond its team's quota of releases under way."""
    reason = find_excess_releases(team, under_way) if team is not None else None
    return Refusal("team_quota_exceeded", reason, {"under_way": under_way}) if reason else None


def assess_bytes(team: Team | None, stored: int, reserved: int, needed: int) -> Refusal | None:
    """Refuse a release that may exceed its team's quota of stored bytes."""
    reason = find_excess_bytes(team, stored, reserved, needed) if team is not None else None
    details = {"stored": stored, "reserved": reserved, "needed": needed}
    return Refusal("team_quota_exceeded", reason, details) if reason else None


def in_same_minute(accepted: Iterable[datetime], at: datetime) -> tuple[datetime, ...]:
    """Return the accepted times less than a minute from `at`."""
    return tuple(time for time in accepted if abs(time - at) < MINUTE)


def find_excess_rate(team: Team, accepted: Iterable[datetime], at: datetime) -> str | None:
    """Return why an announcement exceeds its team's rate; None if it does not.

    Args:
        team: The team that owns the model.
        accepted: Stream times of the team's accepted announcements.
        at: Stream time of this one, so that a redelivery is assessed alike.
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
    """Return why a release exceeds its team's quota of releases; None if it does not."""
    limit = team.quota.releases
    if limit is None or under_way < limit:
        return None
    return (
        f"{under_way} releases of team {team.name} are under way; its quota is {limit}. Publish again when one has "
        "ended."
    )


def most_bytes(base_bytes: int, variants: int) -> int:
    """Return the maximum bytes that a release stores: the merged model, and each variant at most as large."""
    return base_bytes * (1 + variants)


def find_excess_bytes(team: Team, stored: int, reserved: int, needed: int) -> str | None:
    """Return why a release exceeds its team's quota of stored bytes; None if it does not.

    Args:
        team: The team that owns the model.
        stored: Bytes stored for the team's models.
        reserved: Maximum bytes that the team's open releases may add.
        needed: Maximum bytes that this release may add.
    """
    limit = team.quota.stored_bytes
    if limit is None or stored + reserved + needed <= limit:
        return None
    return (
        f"The release may store {needed} bytes; team {team.name} has stored {stored}, its releases under way may add "
        f"{reserved}, and its quota is {limit}. Ask for another one (slipway keys team set --stored-bytes), request "
        "fewer variants, or publish again when releases under way have ended."
    )


def find_excess_upload(team: Team, stored: int, needed: int) -> str | None:
    """Return why an upload exceeds its team's quota of stored bytes; None if it does not.

    Args:
        team: The team that owns the model.
        stored: Bytes stored for the team's models, including parts of other uploads.
        needed: Bytes of the missing files.
    """
    limit = team.quota.stored_bytes
    if limit is None or stored + needed <= limit:
        return None
    return (
        f"The upload has {needed} bytes; team {team.name} has stored {stored}, and its quota is {limit}. Ask for "
        "another one (slipway keys team set --stored-bytes)."
    )
