"""What exceeds a team's quota."""

from contracts.teams import Team
from services.registry.domain.admission import Refusal
from services.registry.domain.team_quotas import find_excess_bytes, find_excess_releases


def assess_releases(team: Team | None, under_way: int) -> Refusal | None:
    """Refuse a release that is one too many for the quota of the team that owns its model."""
    reason = find_excess_releases(team, under_way) if team is not None else None
    return Refusal("team_quota_exceeded", reason, {"under_way": under_way}) if reason else None


def assess_bytes(team: Team | None, stored: int, reserved: int, needed: int) -> Refusal | None:
    """Refuse a release that may store more than the quota of the team that owns its model."""
    reason = find_excess_bytes(team, stored, reserved, needed) if team is not None else None
    details = {"stored": stored, "reserved": reserved, "needed": needed}
    return Refusal("team_quota_exceeded", reason, details) if reason else None
