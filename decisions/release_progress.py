"""The progress of one release: its steps, each with its state and result. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from contracts.envelope import Event
from contracts.policy import ReleasePolicy
from decisions.release_holds import HoldOrder
from decisions.release_plan import PlannedStep, Step, next_step, plan_release, with_earlier
from decisions.work_progress import OngoingWork

State = Literal["waiting", "running", "done", "failed"]
_SHORTEST: tuple[Step, ...] = ("merge", "quantise", "register", "queue", "stage", "benchmark")

STEPS = (
    "admitted",
    "merged",
    "quantised",
    "registered",
    "staged",
    "benchmarked",
    "rehearsed",
    "approved",
    "shadow",
    "canary",
    "in traffic",
    "finished",
)
OPTIONAL = frozenset({"rehearsed", "approved", "shadow", "canary"})
"""Steps that are shown only if the plan has them and they are still to come, or if they happened."""
_NOT_AGAIN = frozenset({"merged", "quantised", "registered", "staged", "benchmarked"})
PER_VARIANT = ("quantised", "staged", "benchmarked")
"""Steps that each variant takes for itself; they are done when all of them have an answer."""
_NAMES: Mapping[Step, str] = {
    "merge": "merged",
    "quantise": "quantised",
    "register": "registered",
    "queue": "staged",
    "stage": "staged",
    "benchmark": "benchmarked",
    "rehearsal": "rehearsed",
    "approval": "approved",
    "shadow": "shadow",
    "canary": "canary",
}
_UNDER_WAY: Mapping[str, str] = {
    "admitted": "admitting",
    "merged": "merging",
    "quantised": "quantising",
    "registered": "registering",
    "staged": "staging",
    "benchmarked": "benchmarking",
    "rehearsed": "rehearsing",
    "approved": "awaiting approval",
    "in traffic": "promoting",
    "finished": "finishing",
}


def name_of(step: PlannedStep) -> str:
    """Return the name under which a step of the plan is shown; traffic shares below 1 are the canary, 0 the shadow."""
    if step.step == "traffic":
        return {1.0: "in traffic", 0.0: "shadow"}.get(step.share or 0.0, "canary")
    return _NAMES[step.step]


@dataclass(frozen=True)
class StepProgress:
    """One step of a release: its state, since when, and its result."""

    name: str
    state: State = "waiting"
    at: datetime | None = None
    detail: str = ""

    @property
    def title(self) -> str:
        """Return its name as people read it: that of a step under way says so."""
        return _UNDER_WAY.get(self.name, self.name) if self.state == "running" else self.name


@dataclass(frozen=True)
class ReleaseProgress:
    """The progress of one release, from its checkpoint to its end.

    `registered` are the variants of its version; `answered` those that have a result in a step, or failed there.
    `rolled_back` tells what became of its version after it was promoted: the target, when, and by whom. With `returns`
    it brings a suspended version back, and begins with its canary.
    """

    key: str
    model: str
    began_at: datetime
    run_id: str = ""
    release_id: str | None = None
    version: int | None = None
    variants: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    answered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    steps: Mapping[str, StepProgress] = field(default_factory=dict)
    work: OngoingWork = field(default_factory=OngoingWork)
    outcome: str | None = None
    code: str | None = None
    reason: str = ""
    finished_at: datetime | None = None
    rolled_back: str = ""
    policy: ReleasePolicy | None = None
    publishers: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    first: bool = False
    returns: bool = False
    passed: frozenset[float] = frozenset()
    hold: HoldOrder | None = None
    source_id: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the display name: `support-bot v3`, or the model alone before a version was reserved."""
        return f"{self.model} v{self.version}" if self.version is not None else self.model

    @property
    def is_paused(self) -> bool:
        """Return whether it is held before its next step."""
        return self.outcome is None and self.hold is not None and self.hold.paused

    @property
    def state(self) -> str:
        """Return its outcome, that it is paused, or the step that is under way."""
        if self.outcome is not None or self.is_paused:
            return self.outcome or "paused"
        return next((step.title for step in self.listed() if step.state == "running"), "in progress")

    @property
    def plan(self) -> tuple[PlannedStep, ...]:
        """Return the registry's plan of the release; before its policy is known, the shortest one."""
        if self.policy is not None:
            plan = plan_release(self.policy, first=self.first, returns=self.returns)
            return tuple(step for step in plan if step.step != "queue") if self.returns else plan
        return (*(PlannedStep(step) for step in _SHORTEST), PlannedStep("traffic", 1.0))

    def listed(self) -> list[StepProgress]:
        """Return the steps in order; while the release is in progress, the next one of its plan is running."""
        plan = self.plan
        done = with_earlier(plan, [step for step in plan if self._is_done(name_of(step))])
        planned = {name_of(step) for step in plan if step not in done and self.outcome is None}
        optional = OPTIONAL | _NOT_AGAIN if self.returns else OPTIONAL
        shown = [name for name in STEPS if name not in optional or name in planned or name in self.steps]
        steps = [self.steps.get(name, StepProgress(name)) for name in shown]
        if self.outcome is not None:
            return steps
        following = next_step(plan, done)
        running = "admitted" if not self._is_done("admitted") and not done else "finished"
        if following is not None and running != "admitted":
            running = name_of(following)
        last = max((STEPS.index(name_of(step)) for step in done), default=-1)
        return [self._counted(step, running, closed=STEPS.index(step.name) < last) for step in steps]

    def _counted(self, step: StepProgress, running: str, *, closed: bool) -> StepProgress:
        """Return a step as running while variants are under way in it, unless a later step is done."""
        if step.state == "waiting":
            return replace(step, state="running") if step.name == running else step
        given, expected = self._answers(step.name)
        if closed or given == expected or step.name not in PER_VARIANT:
            return step
        return replace(step, state="running", detail=f"{given} of {expected}; {step.detail}")

    def _answers(self, name: str) -> tuple[int, int]:
        """Return how many variants have an answer in a step, and how many it waits for."""
        expected = set(self.variants if name == "quantised" else self.registered or self.variants)
        return len(expected & self.answered.get(name, frozenset())), len(expected)

    def _is_done(self, name: str) -> bool:
        """Return whether the release can continue after a step: the first staged variant is benchmarked at once."""
        if name not in self.steps or self.steps[name].state != "done":
            return False
        given, expected = self._answers(name)
        return name not in PER_VARIANT or name == "staged" or given == expected

    def with_step(self, name: str, at: datetime, detail: str = "", state: State = "done") -> "ReleaseProgress":
        """Return the release with a step recorded: the first completion counts, details of variants are joined."""
        earlier = self.steps.get(name)
        ended = None if earlier is None or earlier.state not in ("done", "failed") else earlier
        if ended is not None and (ended.state in ("done", state) or name in PER_VARIANT):
            parts = [part for part in (*ended.detail.split("; "), detail) if part]
            at, detail = max(at, ended.at or at), "; ".join(sorted(set(parts)))
            state = "done" if "done" in (ended.state, state) else state
        return replace(self, steps={**self.steps, name: StepProgress(name, state, at, detail)})

    def with_answer(
        self, name: str, variant: str, at: datetime, detail: str, state: State = "done"
    ) -> "ReleaseProgress":
        """Return the release with the result of a variant in a step."""
        answered = {**self.answered, name: self.answered.get(name, frozenset()) | {variant}}
        return replace(self, answered=answered).with_step(name, at, detail, state)

    def settled(self, event: Event[Any], variant: str = "") -> "ReleaseProgress":
        """Return the release without the progress of the work that an event answers."""
        return replace(self, work=self.work.settle(event, variant))
