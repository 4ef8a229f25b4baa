"""How the rollback-controller decides, the same for every model."""

from dataclasses import dataclass, field

from decisions.rollback import DEAD_S, Guard


@dataclass(frozen=True)
class Rules:
    """How the controller decides, the same for every model.

    Attributes:
        guard: Limit of automatic rollbacks.
        dead_s: Seconds that an engine that callers may have killed may take to be loaded again.
        retry_s: Seconds after which an alert that lasts may start a rollback again, after one that failed.
        unnamed_s: Seconds after a rollback in which an order must name the target that is to go.
        verify_requests: Requests after the switch that verify it.
        verify_s: Seconds that they are waited for.
        alert_s: Seconds for which an alert may start a rollback; one that lasts is published again.
        slice_ratio: Share of live traffic that a slice on the previous version has; 0 for no slices.
        slice_s: Seconds that it lasts.
        decided_s: Seconds after its decision in which a rollback may move traffic, as after an outage.
    """

    guard: Guard = field(default_factory=Guard)
    retry_s: float = 10.0
    dead_s: float = DEAD_S
    unnamed_s: float = 120.0
    verify_requests: int = 5
    verify_s: float = 30.0
    alert_s: float = 900.0
    decided_s: float = 900.0
    slice_ratio: float = 0.1
    slice_s: float = 30.0
