"""Data of releases for pages. Pure."""

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
    """A step of a release; `elapsed_s` counts from the admission of its checkpoint.

    Attributes:
        title: Its name, or the running activity: `merging`.
    """

    name: str
    title: str
    state: Literal["waiting", "running", "done", "failed"]
    at: Time | None
    elapsed_s: float | None
    detail: str


class VariantRow(ComparedVariant):
    """A variant as the registry compared it, with figures of its benchmark; None for a missing figure."""

    verdict: Verdict = "inconclusive"
    reason: str = ""
    state: str
    chosen: bool = False
    baseline_ttft_p95_ms: float | None = None
    endings: str = ""


class Certificate(Screen):
    """A trigger's rehearsed rollback, with the seconds of each part; detection may be of an earlier rehearsal."""

    trigger: str
    fault: str
    detection: str
    detect_s: float
    switch_s: float
    verify_s: float


class Approval(Screen):
    """The approvals of a release: the digest to approve, the deadline, and the approvers so far."""

    manifest_digest: str
    target: str
    deadline_at: Time
    needed: int
    given: tuple[str, ...]
    open: bool


class Release(Screen):
    """A release with the data of its page.

    Attributes:
        paused: Author, time and reason of a pause; empty if not paused.
        gates: Variant and gate result, from each variant's last benchmark.
        canary: The last assessment of each share, in order of time.
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
    """A checkpoint that was refused before its release opened.

    Attributes:
        event_id: ID of the refusal.
        by: The publisher; `unknown` if the log no longer has the announcement.
    """

    event_id: str
    model: str
    at: Time
    run_id: str
    by: str
    code: str
    reason: str
