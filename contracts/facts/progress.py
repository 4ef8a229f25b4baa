"""The progress of a release, as command line and console show it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ..codes import Code
from ..vocabulary import Contract, Instant, ModelName, Target, Variant
from .comparison import Comparison

Outcome = Literal["promoted", "rejected", "aborted", "expired", "superseded", "cancelled"]


class StepProgress(Contract):
    """A step of a release.

    Attributes:
        name: Name of the finished step: `merged`.
        title: Display title in its present state: `merging`, then `merged`.
        at: Time of its end.
        detail: Result so far.
        awaited: Variants without a result in a step that each variant takes separately.
    """

    name: str
    title: str
    state: Literal["waiting", "running", "done", "failed"]
    at: Instant | None = None
    detail: str = ""
    awaited: tuple[Variant, ...] = ()


class ReleaseProgress(Contract):
    """A release from its opening to its end.

    Attributes:
        release_id, version: None for a checkpoint without a release.
        state: The outcome, or the title of the current step, also while the release is paused.
        deadline_at: Deadline of the current step; None while the release is paused.
        paused: Author, time and reason of the pause; empty without one.
        target: The target that was chosen to take traffic, or returns.
        comparison: The variants with their measurements so far; None before the first one.
        manual: Whether traffic requires an approval.
    """

    model: ModelName
    release_id: str | None
    version: int | None
    run_id: str
    opened_at: Instant
    state: str
    steps: tuple[StepProgress, ...] = ()
    variants: tuple[Variant, ...] = ()
    publishers: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    deadline_at: Instant | None = None
    paused: str = ""
    target: Target | None = None
    comparison: Comparison | None = None
    manual: bool = False
    outcome: Outcome | None = None
    code: Code | None = None
    reason: str = ""
    finished_at: Instant | None = None

    @property
    def name(self) -> str:
        """Return the display name: `support-bot v3`, or the model alone if no version was reserved."""
        return f"{self.model} v{self.version}" if self.version is not None else self.model

    @property
    def since(self) -> datetime:
        """Return the end of the last finished step, or `opened_at`."""
        return max((step.at for step in self.steps if step.at is not None), default=self.opened_at)
