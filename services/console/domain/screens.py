"""What the API returns: the data of each screen. Times are UTC, shares are between 0 and 1, latencies milliseconds."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from contracts.facts import TriggerCounts

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
    """How far the index is behind the event log."""

    behind: int
    ratio: float
    ready: bool


class Me(Screen):
    """Who is signed in, and what the person may do.

    Attributes:
        orders: Types of orders that the person may give here.
        models: The models that the orders are limited to; None for all.
        hint: Why no order can be given, if that is so.
    """

    name: str
    roles: tuple[str, ...]
    team: str | None
    orders: tuple[str, ...]
    models: tuple[str, ...] | None
    hint: str = ""


class Points(Screen):
    """A series of one figure, oldest first, one entry per window; None where there is no figure."""

    values: tuple[float | None, ...]
    latest: float | None


class RollbackSummary(Screen):
    """A rollback, and how long it took from detection to the switch."""

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


class FleetRow(Screen):
    """A model: what serves it, and how it is."""

    model: str
    active: str | None
    since: Time | None
    canary: str | None
    weight: float | None
    previous: str | None
    standby: Literal["hot", "not ready", "none"]
    epoch: int
    quarantined: tuple[str, ...]
    open_alerts: int
    worst: str | None
    release_id: str | None
    release_state: str | None
    last_rollback: RollbackSummary | None
    traffic: Points
    ttft_p95_ms: Points


class Totals(Screen):
    """Counts over all models."""

    models: int
    canaries: int
    open_alerts: int
    critical_alerts: int
    releases_open: int
    awaiting_approval: int


class Fleet(Screen):
    """All models."""

    totals: Totals
    models: Page[FleetRow]


class ReleaseRow(Screen):
    """A release in a list."""

    release_id: str
    model: str
    version: int
    run_id: str
    opened_at: Time
    state: str
    state_at: Time
    outcome: str | None
    code: str | None
    reason: str | None
    target: str | None
    mode: str
    publishers: tuple[str, ...]
    rolled_back_at: Time | None = None


class Step(Screen):
    """A step of a release: its state, when it ended, seconds since the release began, and its result."""

    name: str
    state: Literal["waiting", "running", "done", "failed"]
    at: Time | None
    elapsed_s: float | None
    detail: str


class Work(Screen):
    """Work that is under way."""

    step: str
    variant: str
    done: float
    total: float
    unit: str
    detail: str
    ratio: float


class Gate(Screen):
    """A gate with the figures that were compared."""

    variant: str
    name: str
    verdict: str
    value: float | None
    limit: float | None
    reason: str
    code: str | None


class VariantRow(Screen):
    """A variant, and what was measured of it; what was not measured is None."""

    variant: str
    state: str
    chosen: bool
    on_pareto_front: bool
    reason: str
    code: str | None
    size_bytes: int | None
    size_ratio: float | None
    perplexity_ratio: float | None
    mean_kl: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    baseline_ttft_p95_ms: float | None
    tps: float | None


class CanaryStep(Screen):
    """What a step of the canary has shown so far; `counts` is what each trigger judged, empty if that is unknown."""

    weight: float
    verdict: str
    requests: int
    requests_needed: int
    reason: str
    at: Time
    e_values: dict[str, float]
    counts: dict[str, TriggerCounts]


class Certificate(Screen):
    """A rehearsed rollback of one trigger, with the seconds of each part."""

    trigger: str
    fault: str
    detect_s: float
    switch_s: float
    verify_s: float


class Approval(Screen):
    """What a release waits for, or has: the digest that is approved, until when, and by whom."""

    manifest_digest: str
    target: str
    deadline_at: Time
    needed: int
    given: tuple[str, ...]
    open: bool


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


class Release(Screen):
    """A release with all that its screen shows."""

    release_id: str
    model: str
    version: int | None
    state: str
    outcome: str | None
    code: str | None
    reason: str
    rolled_back: str
    opened_at: Time
    finished_at: Time | None
    run_id: str
    base: str
    data_hash: str
    weights_digest: str
    publishers: tuple[str, ...]
    steps: tuple[Step, ...]
    work: tuple[Work, ...]
    variants: tuple[VariantRow, ...]
    gates: tuple[Gate, ...]
    canary: tuple[CanaryStep, ...]
    rehearsal: tuple[Certificate, ...]
    approval: Approval | None
    policy: dict[str, Any]
    history: tuple[EventRow, ...]


class AlertRow(Screen):
    """An alert with its last figures; one that is resolved has those that it was raised with.

    Attributes:
        value: What `limit` bounds: of drift a distance, of a clock seconds, else the share of bad requests.
        resolution: Why it is resolved; empty while it is open.
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


class ChainStep(Screen):
    """A step from the first bad request to the verified recovery; `since_ms` counts from the step before."""

    name: str
    at: Time
    since_ms: float | None


class Alert(Screen):
    """An alert with the decision that followed from it."""

    alert: AlertRow
    rollbacks: tuple[RollbackSummary, ...]
    chain: tuple[ChainStep, ...]
    traffic: Points
    ttft_p95_ms: Points
    serving: bool
    history: tuple[EventRow, ...]


class Deployment(Screen):
    """A change of what serves a model: what, from when on, until when, and who or what changed it."""

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
    by: str
    because: str
    release_id: str | None
    link: str | None


class RollbackPlan(Screen):
    """What a rollback would do now; `refused` has the code and the reason if it would be refused."""

    model: str
    failed: str
    epoch: int
    refused: dict[str, str] | None
    active_before: str | None = None
    active_after: str | None = None
    aborts_canary: str | None = None
    previous_after: str | None = None
    quarantined_after: tuple[str, ...] = ()


class OrderAnswer(Screen):
    """What became of an order within a few seconds."""

    order_id: str
    state: Literal["published", "accepted", "started", "completed", "failed", "refused"]
    code: str | None = None
    reason: str = ""
