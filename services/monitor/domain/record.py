"""The monitor's record of a model in one environment, in the bucket `alerts`."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from contracts.facts import PairCounts
from contracts.policy import FALSE_ALARM_EVERY, JUDGEMENT_S, Canary, ReleasePolicy, Shadow, Trigger
from contracts.records import OutboxRecord
from contracts.vocabulary import ArtifactRef, Contract, Environment, Instant, ModelName, OnlyFor, Target
from decisions.evidence.alerts import AlertState
from decisions.evidence.block_tests import Closed
from decisions.evidence.observe_loop import WatchedTarget
from decisions.evidence.version_tests import Judgement, JudgementVerdict

APPLIED_KEPT = 512
POLICIES_KEPT = 64


class Policy(Contract):
    """The settings of the monitor in a version's frozen policy."""

    release_id: str
    triggers: tuple[Trigger, ...]
    false_alarm_every: float = FALSE_ALARM_EVERY
    canary: Canary
    shadow: Shadow | None = None
    judgement_s: float = JUDGEMENT_S
    after_move: Literal["canary", "stay"] = "canary"

    @classmethod
    def of(cls, release_id: str, policy: ReleasePolicy) -> "Policy":
        """Return the settings of the monitor in a release's policy."""
        asked = ("triggers", "false_alarm_every", "canary", "shadow", "judgement_s", "after_move")
        return cls(release_id=release_id, **{name: getattr(policy, name) for name in asked})


class OpenWindow(Contract):
    """A window of one target that still takes records."""

    start_s: int
    length_s: int
    requests: int = 0
    errors: dict[str, int] = Field(default_factory=dict)
    target_failures: int = 0
    histograms: dict[str, str] = Field(default_factory=dict)


class Reference(Contract):
    """The reference of a target's drift; its rows are in the store."""

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


class ShadowDeath(Contract):
    """One death of a candidate's engine in its shadow; `over_at`: when it answered again."""

    at: datetime
    endpoint: str
    over_at: datetime | None = None


class TargetState(WatchedTarget):
    """A watched target with its open windows, its drift rows and the last assessment of its canary or shadow.

    Of a shadow, `requests` are those that were compared.

    Attributes:
        unfed: Requests since the last one that was evidence, which ended at `fed_at`.
        deaths: Of a shadow: deaths of its engine.
        only_for: Of a canary: whose requests are drawn for it; empty for everyone's.
        closed: By trigger: the blocks that are over, and in no summary of a window yet.
    """

    epoch: int = 0
    requests: int = 0
    unfed: int = 0
    fed_at: datetime | None = None
    deaths: tuple[ShadowDeath, ...] = ()
    only_for: OnlyFor = ()
    since: datetime
    last_at: datetime
    windows: tuple[OpenWindow, ...] = ()
    closed_until_s: int = 0
    closed: dict[str, Closed] = Field(default_factory=dict)
    drift: DriftState = DriftState()
    assessed: str = ""
    assessed_at: datetime | None = None


class Judged(Contract):
    """A suspended version whose shadow is judged, by the metric that moved it.

    Attributes:
        other: The active version, which is asked the same.
        asked: It is in the shadow now; not while a candidate is.
        pairs: Of the block that is open: whose each is, and whether target and other were bad.
        block_at: When the last block closed.
        blocks: How many passed while it was in the shadow.
        counts: What all pairs showed.
        deaths: Of its engine, with a request that the other version answered.
        verdict: As published.
    """

    target: Target
    other: Target
    since: Instant
    trigger: str
    asked: bool = True
    judgement: Judgement = Judgement()
    pairs: tuple[tuple[str, bool, bool], ...] = ()
    block_at: datetime
    blocks: int = 0
    counts: PairCounts = PairCounts()
    deaths: tuple[ShadowDeath, ...] = ()
    verdict: JudgementVerdict | None = None


class MonitorState(OutboxRecord):
    """The state of one model in one environment.

    Attributes:
        epoch: Epoch of the last route.
        routed: The versions that the last route names, whose policies are kept.
        policies: Policies by version.
        unknown: Routed versions whose policies are neither known nor can be read, with the reason.
        targets: Targets by name.
        alerts: Alerts by target and key; those of targets no longer watched are dropped.
        past_read: Whether the log was read for open alerts that the record does not have.
        applied: Ids of the last events that were applied.
        seen: The last request keys, concatenated, so that a redelivered record counts once.
        implausible: Count of impossible records.
        route_known: Whether a route was seen.
        ignored_since: Since when every batch held only records that cannot be true; None if the last one did not.
        ignored_at: When the last of these batches came.
        deaths: By request body: when the engine of which target died with it in flight.
        judged: The suspended version that the shadow judges; None without one.
        undecided: Decision that a person must make about judged suspended versions; empty without one.
    """

    model: ModelName
    environment: Environment
    epoch: int = -1
    routed: tuple[int, ...] = ()
    policies: dict[str, Policy] = Field(default_factory=dict)
    unknown: dict[str, str] = Field(default_factory=dict)
    targets: dict[str, TargetState] = Field(default_factory=dict)
    alerts: dict[str, AlertState] = Field(default_factory=dict)
    past_read: bool = False
    applied: tuple[str, ...] = ()
    seen: str = ""
    implausible: int = 0
    route_known: bool = False
    ignored_since: datetime | None = None
    ignored_at: datetime | None = None
    deaths: dict[str, dict[str, datetime]] = Field(default_factory=dict)
    judged: Judged | None = None
    undecided: str = ""
