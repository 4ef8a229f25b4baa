"""The progress of one release: its steps, each with its state and result. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from clients.cli.views.progress import OngoingWork
from contracts.envelope import Event
from contracts.policy import ReleasePolicy
from decisions.release_plan import PlannedStep, next_step, plan_release, with_earlier
from decisions.release_plan import Step as ReleaseStep

State = Literal["waiting", "running", "done", "failed"]
_SHORTEST: tuple[ReleaseStep, ...] = ("merge", "quantise", "register", "queue", "stage", "benchmark")

STEPS = (
    "admitted",
    "merged",
    "quantised",
    "registered",
    "staged",
    "benchmarked",
    "rehearsed",
    "approved",
    "canary",
    "in traffic",
    "finished",
)
OPTIONAL = frozenset({"rehearsed", "approved", "canary"})
"""Steps that are shown only if the plan has them and they are still to come, or if they happened."""
_NAMES: Mapping[ReleaseStep, str] = {
    "merge": "merged",
    "quantise": "quantised",
    "register": "registered",
    "queue": "staged",
    "stage": "staged",
    "benchmark": "benchmarked",
    "rehearsal": "rehearsed",
    "approval": "approved",
    "canary": "canary",
}


def name_of(step: PlannedStep) -> str:
    """Return the name under which a step of the plan is shown; all traffic shares below 1 are the canary."""
    if step.step == "traffic":
        return "in traffic" if step.share == 1.0 else "canary"
    return _NAMES[step.step]


@dataclass(frozen=True)
class Step:
    """One step of a release: its state, since when, and its result."""

    name: str
    state: State = "waiting"
    at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True)
class ReleaseProgress:
    """The progress of one release, from its checkpoint to its end."""

    key: str
    model: str
    began_at: datetime
    run_id: str = ""
    release_id: str | None = None
    version: int | None = None
    variants: tuple[str, ...] = ()
    steps: Mapping[str, Step] = field(default_factory=dict)
    work: OngoingWork = field(default_factory=OngoingWork)
    outcome: str | None = None
    code: str | None = None
    reason: str = ""
    finished_at: datetime | None = None
    policy: ReleasePolicy | None = None
    first: bool = False
    passed: frozenset[float] = frozenset()
    source_id: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the display name: `support-bot v3`, or the model alone before a version was reserved."""
        return f"{self.model} v{self.version}" if self.version is not None else self.model

    @property
    def plan(self) -> tuple[PlannedStep, ...]:
        """Return the registry's plan of the release; before its policy is known, the shortest one."""
        if self.policy is not None:
            return plan_release(self.policy, first=self.first)
        return (*(PlannedStep(step) for step in _SHORTEST), PlannedStep("traffic", 1.0))

    def listed(self) -> list[Step]:
        """Return the steps in order; while the release is in progress, the next one of its plan is running."""
        plan = self.plan
        done = with_earlier(plan, [step for step in plan if self._is_done(name_of(step))])
        planned = {name_of(step) for step in plan if step not in done and self.outcome is None}
        shown = [name for name in STEPS if name not in OPTIONAL or name in planned or name in self.steps]
        steps = [self.steps.get(name, Step(name)) for name in shown]
        if self.outcome is not None:
            return steps
        following = next_step(plan, done)
        running = "admitted" if not self._is_done("admitted") and not done else "finished"
        if following is not None and running != "admitted":
            running = name_of(following)
        return [
            replace(step, state="running") if step.name == running and step.state == "waiting" else step
            for step in steps
        ]

    def _is_done(self, name: str) -> bool:
        return name in self.steps and self.steps[name].state == "done"

    def with_step(self, name: str, at: datetime, detail: str = "", state: State = "done") -> "ReleaseProgress":
        """Return the release with a step recorded: the first completion counts, details of variants are joined."""
        earlier = self.steps.get(name)
        if earlier is not None and (earlier.state == "done" or earlier.state == state == "failed"):
            parts = [part for part in (*earlier.detail.split("; "), detail) if part]
            at, detail, state = max(at, earlier.at or at), "; ".join(sorted(set(parts))), earlier.state
        return replace(self, steps={**self.steps, name: Step(name, state, at, detail)})

    def settled(self, event: Event[Any], variant: str = "") -> "ReleaseProgress":
        """Return the release without the progress of the work that an event answers."""
        return replace(self, work=self.work.settle(event, variant))
