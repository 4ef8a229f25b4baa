"""Data of the fleet page, and types shared by pages.

Times are UTC, shares between 0 and 1, latencies in milliseconds.
"""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Time = Annotated[str, Field(examples=["2026-11-27T02:31:27.000Z"])]


class Screen(BaseModel):
    """Data of a page."""

    model_config = ConfigDict(frozen=True)


class Page(Screen, Generic[T]):
    """A part of a list, newest first by default; `next` is the `after` parameter of the next part."""

    items: tuple[T, ...]
    total: int
    next: int | None = None


class IndexState(Screen):
    """The index's lag: messages behind the log, and the indexed share of the log."""

    behind: int
    ratio: float
    ready: bool


class Points(Screen):
    """A time series, oldest first, one entry per window; None where a window has no figure."""

    values: tuple[float | None, ...]
    latest: float | None


class Moment(Screen):
    """An event of a model to mark in plots."""

    at: Time
    kind: Literal["promotion", "canary", "alert", "rollback", "drill"]
    what: str


class RollbackSummary(Screen):
    """A rollback; `switch_ms` is the time from detection to the switch."""

    rollback_id: str
    model: str
    state: str
    at: Time
    failed: str
    target: str | None
    mode: str
    verdict: str | None
    code: str | None
    reason: str | None
    switch_ms: float | None


class ShadowProgress(Screen):
    """A shadow: a candidate that gets copies of requests but no traffic, and its evidence so far.

    Attributes:
        share: Share of the active version's requests that is copied to it.
        release_id: Its release; None if unknown.
        requests: Compared requests.
        requests_needed: Requests still needed for a verdict; None if unknown.
        seconds_needed: Minimum seconds left; None before the first assessment.
        deadline_at: Its deadline; None while paused or if unknown.
    """

    target: str
    share: float
    release_id: str | None
    requests: int
    requests_needed: int | None
    seconds_needed: float | None
    verdict: str
    deadline_at: Time | None


class Suspension(Screen):
    """A version that an alert took out of traffic; `judgement` is its verdict or the decision that it awaits."""

    target: str
    cause: str
    since: Time
    judgement: str = ""


class FleetRow(Screen):
    """A model with its serving version and state.

    Attributes:
        release_id: Its newest open release; else its newest release, unless that still serves.
    """

    model: str
    active: str | None
    since: Time | None
    canary: str | None
    weight: float | None
    shadow: ShadowProgress | None
    previous: str | None
    standby: Literal["hot", "not ready", "none"]
    epoch: int
    quarantined: tuple[str, ...]
    suspended: tuple[Suspension, ...]
    open_alerts: int
    worst: str | None
    release_id: str | None
    release_state: str | None
    release_version: int | None
    last_rollback: RollbackSummary | None
    traffic: Points
    ttft_p95_ms: Points


class Totals(Screen):
    """Counts over all models.

    Attributes:
        shadows: Shadows under way.
        refused_checkpoints: Checkpoints of the last 7 days refused before a release opened.
    """

    models: int
    canaries: int
    shadows: int
    open_alerts: int
    critical_alerts: int
    releases_open: int
    awaiting_approval: int
    refused_checkpoints: int


class Fleet(Screen):
    """All models, with counts."""

    totals: Totals
    models: Page[FleetRow]


class EventRow(Screen):
    """An entry of the history."""

    stream: str
    sequence: int
    id: str
    at: Time
    type: str
    model: str
    sender: str
    environment: str
    correlation: str
    about: str | None
    title: str


class Deployment(Screen):
    """A change of a route: its targets, cause and author, and `until` when it lasted."""

    model: str
    sequence: int
    at: Time
    until: Time | None
    cause: str
    epoch: int
    active: str | None
    previous: str | None
    canary: str | None
    weight: float | None
    shadow: str | None
    shadow_share: float | None
    by: str
    because: str
    release_id: str | None
    link: str | None
