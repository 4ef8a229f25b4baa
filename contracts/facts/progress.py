"""The progress of a release, as the registry has it: CLI and console show it."""

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
        name: What it is called once it is done: `merged`.
        title: Its name, or what is under way: `merging`.
        at: When it ended.
        detail: Its result so far.
        awaited: The variants that have no result in it yet, of a step that each variant takes for itself.
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
        release_id: None of a checkpoint that has no release (yet); so is `version`.
        state: Its outcome, or the title of the step that it waits for, also while it is paused.
        deadline_at: When the step that it waits for takes too long; None while it is paused.
        paused: By whom, since when and why it is held before its next step; empty if it is not.
        target: What is chosen to take traffic, or returns.
        comparison: The variants side by side, with what was measured so far; None before anything was.
        manual: Whether it takes traffic only with an approval.
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
        """Return when the last finished step ended."""
        return max((step.at for step in self.steps if step.at is not None), default=self.opened_at)
