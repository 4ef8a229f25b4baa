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
    """The monitor's part of a version's frozen policy."""

    release_id: str
    triggers: tuple[Trigger, ...]
    false_alarm_every: float = FALSE_ALARM_EVERY
    canary: Canary
    shadow: Shadow | None = None
    judgement_s: float = JUDGEMENT_S
    after_move: Literal["canary", "stay"] = "canary"

    @classmethod
    def of(cls, release_id: str, policy: ReleasePolicy) -> "Policy":
        """Return the monitor's part of a release's policy."""
        asked = ("triggers", "false_alarm_every", "canary", "shadow", "judgement_s", "after_move")
        return cls(release_id=release_id, **{name: getattr(policy, name) for name in asked})


class OpenWindow(Contract):
    """An open window of one target; histograms are encoded by `sketch`."""

    start_s: int
    length_s: int
    requests: int = 0
    errors: dict[str, int] = Field(default_factory=dict)
    target_failures: int = 0
    histograms: dict[str, str] = Field(default_factory=dict)


class Reference(Contract):
    """A target's drift reference; its rows are in the store (`ref`)."""

    version: int
    rows: int
    ref: ArtifactRef
    taken_at: datetime
    source: str


class DriftState(Contract):
    """A target's drift reference, and feature rows collected for the next comparison."""

    reference: Reference | None = None
    columns: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    began_at: datetime | None = None
    ended_at: datetime | None = None
    compared: int = 0


class ShadowDeath(Contract):
    """One death of a shadow's engine; `over_at`: when it answered again."""

    at: datetime
    endpoint: str
    over_at: datetime | None = None


class TargetState(WatchedTarget):
    """A monitored target with open windows, drift rows, and the last assessment as canary or shadow.

    Attributes:
        requests: All requests; of a shadow, compared requests.
        unfed: Requests since the last one with evidence.
        fed_at: End of that last one.
        deaths: A shadow's engine deaths.
        only_for: Callers that a canary is restricted to; empty for all.
        closed: By trigger: closed blocks that are not summarised yet.
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
    """A suspended version under judgement by its shadow.

    Attributes:
        other: The active version, for comparison.
        trigger: The trigger that suspended it.
        asked: Whether it gets mirrored requests now; not while a candidate does.
        pairs: Pairs of the open block: holder, whether bad on `target`, whether bad on `other`.
        block_at: When the last block closed.
        blocks: Number of closed blocks.
        counts: Counts of all pairs.
        deaths: Deaths of its engine during requests that `other` answered.
        verdict: The published verdict; None before.
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
        routed: Versions on the last route; their policies are kept.
        policies: Policies by version.
        unknown: Routed versions with unreadable policies, with the reason.
        targets: Targets by name.
        alerts: Alerts by target and key, of monitored targets only.
        past_read: Whether the log was searched for open alerts missing here.
        applied: Ids of the last applied events.
        seen: The last record keys, concatenated, so that a redelivered record counts once.
        implausible: Number of implausible records.
        route_known: Whether a route was applied.
        ignored_since: Since when all batches had implausible records only; None if the last one had others.
        ignored_at: Time of the last such batch.
        deaths: Engine deaths by request body and target.
        judged: The suspended version under judgement; None without one.
        undecided: Suspended versions that await an operator's decision, as text; empty without one.
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
