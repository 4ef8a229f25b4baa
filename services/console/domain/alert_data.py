"""Data of alerts for pages. Pure."""

from typing import Literal

from services.console.domain.screens import EventRow, Moment, Points, RollbackSummary, Screen, Time


class AlertRow(Screen):
    """An alert with its last figures, or, once resolved, its figures when raised.

    Attributes:
        value: The figure that `limit` bounds: drift distance, clock offset in seconds, loss of evaluation score, or
            share of bad requests.
        resolution: Why it was resolved; empty while open.
        answers_nothing: Whether the target answers no request.
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
    """A step from the first bad request to the verified recovery; `since_ms` counts from the previous step."""

    name: str
    at: Time
    since_ms: float | None


class Figures(Screen):
    """A model's metrics per window, oldest first.

    Attributes:
        target: The target of `bad_ratio`.
        ends: End of each window.
        requests: Requests to all targets.
        bad_ratio: Share of the target's requests that a trigger calls bad; None without a window.
        ttft_p95_ms: TTFT p95 by target, in milliseconds.
        moments: Events of the model in the same period.
    """

    target: str
    ends: tuple[Time, ...]
    requests: Points
    bad_ratio: tuple[float | None, ...]
    ttft_p95_ms: dict[str, tuple[float | None, ...]]
    moments: tuple[Moment, ...]


class Alert(Screen):
    """An alert, the rollbacks that followed, and the figures around it."""

    alert: AlertRow
    rollbacks: tuple[RollbackSummary, ...]
    chain: tuple[ChainStep, ...]
    figures: Figures
    serving: bool
    history: tuple[EventRow, ...]
