"""What a route gives each target that takes requests. Pure."""

from dataclasses import dataclass
from datetime import datetime

from contracts.routes import Route
from contracts.vocabulary import OnlyFor, Target
from decisions.evidence.observation import Role


@dataclass(frozen=True)
class Routed:
    """A target that takes requests: as what, which share, and where; a shadow's endpoints do not matter.

    Attributes:
        away_until: Until when a canary's traffic is taken away.
        times_away: How often it was.
        only_for: Whose requests are drawn for a canary; empty for everyone's.
    """

    target: Target
    role: Role
    weight_ratio: float
    endpoints: tuple[str, ...] = ()
    away_until: datetime | None = None
    times_away: int = 0
    only_for: OnlyFor = ()


def roles(route: Route) -> dict[str, Routed]:
    """Return the targets of a route that take requests, by name."""
    routed = []
    if route.shadow is not None and route.shadowed is not None:
        routed.append(Routed(route.shadowed.target, "shadow", route.shadow.share_ratio))
    canary = route.canary_in_traffic
    if canary is not None:
        away = canary.away_until, canary.times_away
        about = canary.weight_ratio, canary.served.endpoints, *away, canary.only_for
        routed.append(Routed(canary.served.target, "canary", *about))
    if route.active is not None:
        routed.append(Routed(route.active.target, "active", 1.0, route.active.endpoints))
    return {str(each.target): each for each in routed}
