"""The data of releases on pages. Pure."""

from typing import Any, Literal

from contracts.evaluations.results import EvaluationSummary
from contracts.facts import GateResult, ShadowCounts, TriggerCounts, WorkProgressed
from services.console.domain.screens import EventRow, Screen, Time


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
    paused: bool = False


class Step(Screen):
    """A step of a release: its state, when it ended, seconds since its checkpoint was announced, and its result.

    Attributes:
        title: Its name, or what is under way: `merging`.
    """

    name: str
    title: str
    state: Literal["waiting", "running", "done", "failed"]
    at: Time | None
    elapsed_s: float | None
    detail: str


class VariantRow(Screen):
    """A variant with its measurements; None for a missing one."""

    variant: str
    state: str
    chosen: bool = False
    on_pareto_front: bool = False
    reason: str = ""
    code: str | None = None
    size_bytes: int | None = None
    size_ratio: float | None = None
    perplexity_ratio: float | None = None
    mean_kl: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    baseline_ttft_p95_ms: float | None = None
    tps: float | None = None
    million_tokens_price: float | None = None
    endings: str = ""


class CanaryStep(Screen):
    """The results so far of a canary step; `counts` is the counts of each trigger, empty if unknown."""

    weight: float
    verdict: str
    requests: int
    requests_needed: int
    reason: str
    at: Time
    e_values: dict[str, float]
    counts: dict[str, TriggerCounts]


class ShadowStep(Screen):
    """The results so far of the shadow: requests sent to both the candidate and the active version, by trigger."""

    share: float
    verdict: str
    requests: int
    requests_needed: int
    seconds_needed: float
    reason: str
    at: Time
    counts: dict[str, ShadowCounts]


class Certificate(Screen):
    """A rehearsed rollback of one trigger, with the seconds of each part; detection may have been earlier."""

    trigger: str
    fault: str
    detection: str
    detect_s: float
    switch_s: float
    verify_s: float


class Approval(Screen):
    """The approval of a release, awaited or given: its digest, its deadline, and the approver."""

    manifest_digest: str
    target: str
    deadline_at: Time
    needed: int
    given: tuple[str, ...]
    open: bool


class Release(Screen):
    """A release with all that its screen shows.

    Attributes:
        paused: By whom, since when and why it is held before its next step; empty if it is not.
        gates: Those of the last benchmark of each variant, beside the variant's name.
    """

    release_id: str
    model: str
    version: int | None
    state: str
    outcome: str | None
    code: str | None
    reason: str
    rolled_back: str
    paused: str
    opened_at: Time
    run_id: str
    base: str
    data_hash: str
    weights_digest: str
    publishers: tuple[str, ...]
    steps: tuple[Step, ...]
    work: tuple[WorkProgressed, ...]
    variants: tuple[VariantRow, ...]
    gates: tuple[tuple[str, GateResult], ...]
    evaluations: tuple[EvaluationSummary, ...]
    shadow: ShadowStep | None
    canary: tuple[CanaryStep, ...]
    rehearsal: tuple[Certificate, ...]
    approval: Approval | None
    policy: dict[str, Any]
    history: tuple[EventRow, ...]


class RefusedCheckpoint(Screen):
    """A checkpoint that was refused before a release began: which run, since when, and why.

    Attributes:
        event_id: Of the refusal.
        by: Who announced it; `unknown` if the announcement is no longer in the log.
    """

    event_id: str
    model: str
    at: Time
    run_id: str
    by: str
    code: str
    reason: str
