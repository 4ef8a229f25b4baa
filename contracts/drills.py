"""A drill in progress: the record that gateways watch, one per model and environment in the bucket `drills`."""

from datetime import timedelta

from .facts import DrillFault
from .vocabulary import Contract, Environment, Instant, Ratio, Target

LONGEST = timedelta(hours=1)
"""The longest duration of a drill."""


class Drill(Contract):
    """A fault that the gateway injects into a share of one target's requests until it expires."""

    drill_id: str
    target: Target
    environment: Environment
    fault: DrillFault
    share_ratio: Ratio
    starts_at: Instant
    expires_at: Instant
    actor: str
    reason: str
    ordered_at: Instant | None = None
    """When the bus stored the order; an order that was stored earlier changes nothing."""
