"""How the rollback-controller decides, the same for every model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """How the controller decides, the same for every model.

    Attributes:
        unnamed_s: Seconds after a rollback in which an order must name the target that is to go.
        verify_requests: Requests after the switch that verify it.
        verify_s: Seconds that they are waited for.
        alert_s: Seconds for which an alert may start a rollback; one that lasts is published again.
        decided_s: Seconds after its decision in which a rollback may move traffic, as after an outage.
    """

    unnamed_s: float = 120.0
    verify_requests: int = 5
    verify_s: float = 30.0
    alert_s: float = 900.0
    decided_s: float = 900.0
