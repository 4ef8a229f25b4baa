"""What the monitor remembers of a model in one environment: one record in the bucket `alerts`."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from contracts.facts.watch import AlertKind, Severity, Window
from contracts.outbox import OutboxRecord
from contracts.policy import Canary, Trigger
from contracts.vocabulary import ArtifactRef, Contract, Target
from decisions.evidence import EDetector, EProcess, PairTest

Role = Literal["active", "canary"]
APPLIED_KEPT = 512
POLICIES_KEPT = 32


class Policy(Contract):
    """What a version's frozen policy asks of the monitor."""

    release_id: str
    triggers: tuple[Trigger, ...]
    canary: Canary


class Slot(Contract):
    """A short span of one trigger's observations, for the figures of its window."""

    start_s: int
    trials: int = 0
    hits: int = 0
    drilled: int = 0


class TriggerState(Contract):
    """One trigger's evidence about one target.

    Attributes:
        first_bad_at: the arrival of the first bad request since the evidence last spoke for the target.
        drill: the last drill that touched a bad request.
    """

    evidence: Annotated[EProcess | EDetector, Field(discriminator="form")]
    pair: PairTest | None = None
    slots: tuple[Slot, ...] = ()
    first_bad_at: datetime | None = None
    drill: str | None = None


class OpenWindow(Contract):
    """A window of one target that still takes records."""

    start_s: int
    length_s: int
    requests: int = 0
    errors: dict[str, int] = Field(default_factory=dict)
    target_failures: int = 0
    other_failures: int = 0
    ttft: str = ""
    e2e: str = ""
    columns: dict[str, tuple[int, float, float]] = Field(default_factory=dict)
    drills: dict[str, int] = Field(default_factory=dict)


class Reference(Contract):
    """What the current window of a target is compared with; the rows lie in the store."""

    version: int
    rows: int
    ref: ArtifactRef
    taken_at: datetime
    source: str


class DriftState(Contract):
    """Rows of features, gathered for the next comparison."""

    reference: Reference | None = None
    columns: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    began_at: datetime | None = None
    ended_at: datetime | None = None
    compared: int = 0


class TargetState(Contract):
    """One target as it is watched."""

    target: Target
    role: Role
    weight_ratio: float = 1.0
    release_id: str = ""
    epoch: int = 0
    requests: int = 0
    since: datetime
    last_at: datetime
    triggers: dict[str, TriggerState] = Field(default_factory=dict)
    runs: tuple[int, int] = (0, 0)
    run_began_at: datetime | None = None
    windows: tuple[OpenWindow, ...] = ()
    closed_until_s: int = 0
    late: int = 0
    drift: DriftState = DriftState()
    assessed: str = ""
    assessed_at: datetime | None = None


class AlertState(Contract):
    """An alert that is open, or was last."""

    alert_id: str
    occurrence: int
    kind: AlertKind
    severity: Severity
    target: Target
    trigger: str | None
    open: bool = True
    raised_at: datetime
    told_at: datetime
    calm_since: datetime | None = None
    value: float | None = None
    limit: float | None = None
    window: Window | None = None
    requests: int | None = None
    e_value: float | None = None
    first_bad_at: datetime | None = None
    drill: str | None = None
    evidence: ArtifactRef | None = None
    message: str = ""
    updates: int = 0


class GatewayClock(Contract):
    """What is known of a gateway's clock.

    Attributes:
        offset_s: by how much it was ahead of the bus's when its last batch was stored.
        wrong: how many batches in a row it was wrong.
    """

    offset_s: float
    wrong: int = 0
    last_at: datetime


class Watch(OutboxRecord):
    """Everything about one model in one environment.

    Attributes:
        clocks: of the gateways that sent records lately.
        seen: the last request keys, concatenated, so that a record that comes twice counts once.
    """

    epoch: int = -1
    policies: dict[str, Policy] = Field(default_factory=dict)
    targets: dict[str, TargetState] = Field(default_factory=dict)
    alerts: dict[str, AlertState] = Field(default_factory=dict)
    applied: tuple[str, ...] = ()
    seen: str = ""
    duplicates: int = 0
    implausible: int = 0
    unwatched: int = 0
    route_known: bool = False
    clocks: dict[str, GatewayClock] = Field(default_factory=dict)
