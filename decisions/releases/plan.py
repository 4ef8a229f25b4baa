"""The steps of a release: the table that registry, commands and console share, and the plan of a policy."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from contracts.policy import ReleasePolicy
from contracts.provenance.steps import RequiredAttestations, RequiredStep

Step = Literal[
    "merge",
    "quantise",
    "register",
    "queue",
    "stage",
    "benchmark",
    "evaluate",
    "rehearsal",
    "approval",
    "shadow",
    "traffic",
    "canary",
]


class PlannedStep(NamedTuple):
    """A step of a plan; `traffic` and `canary` occur once per traffic share, with share 0 for a shadow."""

    step: Step
    share: float | None = None

    @property
    def title(self) -> str:
        """Return the display title; traffic below 1 belongs to the canary, 0 to the shadow."""
        if self.step == "traffic":
            return {1.0: ROWS["traffic"].title, 0.0: ROWS["shadow"].title}.get(self.share or 0.0, ROWS["canary"].title)
        return ROWS[self.step].title


def needs_rehearsal(policy: ReleasePolicy) -> bool:
    """Return whether the policy requires a rehearsal and has a trigger to rehearse."""
    return policy.rehearsal == "required" and bool(policy.rehearsed)


def needs_evaluation(policy: ReleasePolicy) -> bool:
    """Return whether the answers of the chosen variant are evaluated."""
    return bool(policy.evaluations.sets)


def needs_approval(policy: ReleasePolicy) -> bool:
    """Return whether an operator must approve the release."""
    return policy.promotion.mode == "manual"


@dataclass(frozen=True)
class Row:
    """A step of the table.

    Attributes:
        name: Name in deadlines, metrics and failures.
        title: Text after the step; steps with the same title are shown as one.
        under_way: Text during the step.
        limit: Policy field with the time limit in seconds.
        begins: Fact of the registry that begins the step, held by a pause; empty if the previous step's end begins it.
        restarts: Keys of the release's record that restart the time limit.
        is_needed: Returns whether a policy requires the step.
        per_variant: Whether each variant takes the step separately.
        again: Whether a returning suspended version takes the step again.
    """

    name: Step
    title: str
    under_way: str
    limit: str
    begins: str
    restarts: tuple[str, ...] = ()
    is_needed: Callable[[ReleasePolicy], bool] = lambda policy: True  # noqa: ARG005 - each row has the same type
    per_variant: bool = False
    again: bool = False

    def limit_s(self, policy: ReleasePolicy) -> float:
        """Return the time limit of the step in seconds."""
        part, _, name = self.limit.partition(".")
        return float(getattr(getattr(policy, part), name, 0.0))


_MEASURED: Final = ("staged", "benchmarked", "failed")
ROWS: Final[dict[Step, Row]] = {
    row.name: row
    for row in (
        Row("merge", "merged", "merging", "deadlines.merge_s", "release.opened"),
        Row("quantise", "quantised", "quantising", "deadlines.quantise_s", "variant.requested", per_variant=True),
        Row("register", "registered", "registering", "deadlines.stage_s", "", restarts=("quantised", "failed")),
        Row("queue", "staged", "staging", "deadlines.queue_s", "", restarts=("version.registered",), again=True),
        Row(
            "stage", "staged", "staging", "deadlines.stage_s", "stage.requested",
            restarts=_MEASURED, per_variant=True,
        ),
        Row(
            "benchmark", "benchmarked", "benchmarking", "deadlines.benchmark_s", "stage.requested",
            restarts=_MEASURED, per_variant=True,
        ),
        Row(
            "evaluate", "evaluated", "evaluating", "deadlines.evaluate_s", "stage.requested",
            restarts=("benchmarked", "failed"), is_needed=needs_evaluation,
        ),
        Row(
            "rehearsal", "rehearsed", "rehearsing", "deadlines.rehearsal_s", "rehearsal.requested",
            is_needed=needs_rehearsal,
        ),
        Row(
            "approval", "approved", "awaiting approval", "promotion.approval_deadline_s", "approval.requested",
            is_needed=needs_approval,
        ),
        Row(
            "shadow", "shadow", "shadow", "shadow.deadline_s", "",
            restarts=("deployed",), is_needed=lambda p: p.shadow is not None,
        ),
        Row(
            "canary", "canary", "canary", "canary.deadline_s", "",
            restarts=("deployed",), is_needed=lambda p: bool(p.canary.steps), again=True,
        ),
        Row("traffic", "in traffic", "promoting", "deadlines.traffic_s", "traffic.requested", again=True),
    )
}  # fmt: skip
"""The steps in order; in a plan, a `traffic` step precedes each shadow and canary."""
_OF_TRAFFIC: Final = ("shadow", "canary", "traffic")


def required_attestations(policy: ReleasePolicy) -> RequiredAttestations:
    """Return the attestations that a policy requires before a version takes traffic."""
    steps: tuple[RequiredStep, ...] = ("merge", "quantise", "benchmark")
    steps += ("evaluate",) if needs_evaluation(policy) else ()
    steps += ("rehearse",) if needs_rehearsal(policy) else ()
    steps += ("approve",) if needs_approval(policy) else ()
    return RequiredAttestations(steps=steps, attesters=policy.attesters, approvals=policy.approvals.count)


def traffic_shares(policy: ReleasePolicy, *, first: bool) -> tuple[float, ...]:
    """Return the traffic shares of a release in order; a model's first release takes all traffic at once."""
    return (1.0,) if first else (*policy.canary.steps, 1.0)


def needs_shadow(policy: ReleasePolicy, *, first: bool) -> bool:
    """Return whether a candidate has a shadow; a model's first one has none."""
    return policy.shadow is not None and not first


def plan_release(policy: ReleasePolicy, *, first: bool = False, returns: bool = False) -> tuple[PlannedStep, ...]:
    """Return the steps of a release in order.

    Args:
        policy: The policy of the release.
        first: Whether the model has no active version, so that there is no baseline.
        returns: Whether a suspended version returns; its build, measurements, rehearsal and approval are not repeated.
    """
    rows = [row for row in ROWS.values() if row.name not in _OF_TRAFFIC and row.is_needed(policy)]
    plan = [PlannedStep(row.name) for row in rows if row.again or not returns]
    if needs_shadow(policy, first=first) and not returns:
        plan += [PlannedStep("traffic", 0.0), PlannedStep("shadow")]
    for share in traffic_shares(policy, first=first):
        plan.append(PlannedStep("traffic", share))
        if share < 1.0:
            plan.append(PlannedStep("canary", share))
    return tuple(plan)


def next_step(plan: Iterable[PlannedStep], done: Collection[PlannedStep]) -> PlannedStep | None:
    """Return the first step that is not done; None after the last one."""
    return next((step for step in plan if step not in done), None)
