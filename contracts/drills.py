"""A drill under way: the record that gateways follow, one per model and environment in the bucket `drills`."""

from datetime import datetime, timedelta

from .facts import DrillFault
from .vocabulary import Contract, Environment, Instant, Ratio, Target

LONGEST = timedelta(hours=1)
"""No drill lasts longer, whoever orders it."""


class Drill(Contract):
    """A fault that the gateway puts on a share of one target's requests; it ends by itself."""

    drill_id: str
    target: Target
    environment: Environment
    fault: DrillFault
    share_ratio: Ratio
    starts_at: Instant
    expires_at: Instant
    who: str
    reason: str
    ordered_at: Instant | None = None
    """When the bus stored the order: one that was stored earlier and comes again changes nothing."""

    def is_on(self, now: datetime) -> bool:
        """Return whether it is under way; a clock that runs wrong cannot make it last."""
        return self.share_ratio > 0.0 and now < min(self.expires_at, self.starts_at + LONGEST)


def drill_key(environment: Environment, model: str) -> str:
    """Return the key of a drill's record."""
    return f"{environment}.{model}"
