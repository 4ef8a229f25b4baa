"""The data of the fleet on pages, and types that screens share.

Times are UTC, shares are between 0 and 1, latencies are milliseconds.
"""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Time = Annotated[str, Field(examples=["2026-11-27T02:31:27.000Z"])]


class Screen(BaseModel):
    """Data of a screen."""

    model_config = ConfigDict(frozen=True)


class Page(Screen, Generic[T]):
    """A part of a list, newest first unless the list says otherwise; `next` is the `after` of the following part."""

    items: tuple[T, ...]
    total: int
    next: int | None = None


class IndexState(Screen):
    """The lag of the index behind the event log."""

    behind: int
    ratio: float
    ready: bool


class Points(Screen):
    """A series of one figure, oldest first, one entry per window; None where there is no figure."""

    values: tuple[float | None, ...]
    latest: float | None


class Moment(Screen):
    """An event of a model for plots: its time, and a few words about it."""

    at: Time
    kind: Literal["promotion", "canary", "alert", "rollback", "drill"]
    what: str


class RollbackSummary(Screen):
    """A rollback, and its duration from detection to the switch."""

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
    """A shadow: a candidate that gets copies of requests before it takes traffic, and its evidence so far.

    Attributes:
        share: Share of the active version's requests that are mirrored.
        release_id: Its release; None if that is not known.
        requests: Number of compared requests.
        requests_needed: Requests that a verdict still needs; None if not known.
        seconds_needed: Minimum time left, in seconds; None before the first assessment.
        deadline_at: Its deadline; None while its release is paused, or if not known.
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
    """A version that an alert took out of traffic; `judgement`: its verdict, or the decision asked of a person."""

    target: str
    cause: str
    since: Time
    judgement: str = ""


class FleetRow(Screen):
    """A model with its serving version and state.

    Attributes:
        release_id: Its newest release in progress; without one, its newest release unless that serves on.
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
        shadows: Candidates that are asked unseen, before a canary.
        refused_checkpoints: Those of 7 days of which no release began.
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
    """All models."""

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
    """A deployment of a model: the target, its start and end, and the cause of the change."""

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
