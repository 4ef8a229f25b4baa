"""The data of alerts on pages. Pure."""

from typing import Literal

from services.console.domain.screens import EventRow, Moment, Points, RollbackSummary, Screen, Time


class AlertRow(Screen):
    """An alert with its last figures; a resolved alert has the figures at its raising.

    Attributes:
        value: Figure that `limit` bounds: drift distance, clock offset in seconds, loss of evaluation score, or the
            share of bad requests.
        resolution: Why it is resolved; empty while it is open.
        answers_nothing: Whether the target answers nothing.
    """

    alert_id: str
    model: str
    target: str
    environment: str
    state: Literal["open", "resolved"]
    at: Time
    kind: str
    severity: str
    trigger: str | None
    value: float | None
    limit: float | None
    requests: int | None
    e_value: float | None
    message: str
    resolution: str
    runbook: str
    evidence: str | None
    first_bad_at: Time | None
    raised_at: Time
    drill: str | None
    release_id: str | None
    answers_nothing: bool


class ChainStep(Screen):
    """A step from the first bad request to the verified recovery; `since_ms` counts from the step before."""

    name: str
    at: Time
    since_ms: float | None


class Figures(Screen):
    """The counts of a model's windows, oldest first.

    Attributes:
        target: The target that they are about.
        ends: When each window ended.
        requests: Those of all targets.
        bad_ratio: The share of the target's that a trigger calls bad; None where there was no such window of it.
        ttft_p95_ms: By target.
        moments: What happened meanwhile.
    """

    target: str
    ends: tuple[Time, ...]
    requests: Points
    bad_ratio: tuple[float | None, ...]
    ttft_p95_ms: dict[str, tuple[float | None, ...]]
    moments: tuple[Moment, ...]


class Alert(Screen):
    """An alert with the decision that followed from it."""

    alert: AlertRow
    rollbacks: tuple[RollbackSummary, ...]
    chain: tuple[ChainStep, ...]
    figures: Figures
    serving: bool
    history: tuple[EventRow, ...]
