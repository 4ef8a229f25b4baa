"""The data of releases on pages. Pure."""

from typing import Any, Literal

from contracts.evaluations.results import EvaluationSummary
from contracts.facts import CanaryAssessed, ComparedVariant, GateResult, ShadowAssessed, WorkProgressed
from contracts.vocabulary import Verdict
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


class VariantRow(ComparedVariant):
    """A variant as the registry compared it, its state, and what its benchmark adds; None for a missing figure."""

    verdict: Verdict = "inconclusive"
    reason: str = ""
    state: str
    chosen: bool = False
    baseline_ttft_p95_ms: float | None = None
    endings: str = ""


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
        canary: The last assessment of each of its shares, in the order of time.
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
    shadow: ShadowAssessed | None
    canary: tuple[CanaryAssessed, ...]
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
