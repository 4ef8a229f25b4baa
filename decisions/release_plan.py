"""The plan of a release: the steps that its policy requires, in order, and which of them is next.

The registry moves releases by it, `slipway status` shows them by it.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from contracts.attested_steps import RequiredAttestations, RequiredStep
from contracts.policy import ReleasePolicy

Step = Literal[
    "merge",
    "quantise",
    "register",
    "queue",
    "stage",
    "benchmark",
    "rehearsal",
    "approval",
    "shadow",
    "traffic",
    "canary",
]


class PlannedStep(NamedTuple):
    """A step of a plan; `traffic` and `canary` are planned once per traffic share, share 0 is that of a shadow."""

    step: Step
    share: float | None = None


def needs_rehearsal(policy: ReleasePolicy) -> bool:
    """Return whether a rollback is rehearsed: only if the policy requires it and has an automatic trigger."""
    return policy.rehearsal == "required" and bool(policy.automatic)


def needs_approval(policy: ReleasePolicy) -> bool:
    """Return whether an operator must approve the release."""
    return policy.promotion.mode == "manual"


def required_attestations(policy: ReleasePolicy) -> RequiredAttestations:
    """Return what must be attested of a version under a policy before it takes traffic."""
    steps: tuple[RequiredStep, ...] = ("merge", "quantise", "benchmark")
    steps += ("rehearse",) if needs_rehearsal(policy) else ()
    steps += ("approve",) if needs_approval(policy) else ()
    return RequiredAttestations(steps=steps, attesters=policy.attesters, approvals=policy.approvals.count)


def traffic_shares(policy: ReleasePolicy, *, first: bool) -> tuple[float, ...]:
    """Return the traffic shares of a release in order; the first release of a model goes straight to all traffic."""
    return (1.0,) if first else (*policy.canary.steps, 1.0)


def needs_shadow(policy: ReleasePolicy, *, first: bool) -> bool:
    """Return whether a candidate is asked unseen before it takes traffic; the first one has nothing to differ from."""
    return policy.shadow is not None and not first


def plan_release(policy: ReleasePolicy, *, first: bool = False, returns: bool = False) -> tuple[PlannedStep, ...]:
    """Return the steps of a release in order.

    Args:
        policy: The policy of the release.
        first: Nothing of the model is active yet, so that there is no baseline for a canary.
        returns: A suspended version returns, which was made, measured, rehearsed and approved before.
    """
    steps: list[Step] = ["queue"] if returns else ["merge", "quantise", "register", "queue", "stage", "benchmark"]
    if needs_rehearsal(policy) and not returns:
        steps.append("rehearsal")
    if needs_approval(policy) and not returns:
        steps.append("approval")
    plan = [PlannedStep(step) for step in steps]
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


def with_earlier(plan: Sequence[PlannedStep], done: Collection[PlannedStep]) -> frozenset[PlannedStep]:
    """Return the steps that are done, and every step before the last of them.

    For readers of a log, whose events may arrive in any order and which may begin anywhere.
    """
    last = max((index for index, step in enumerate(plan) if step in done), default=-1)
    return frozenset(plan[: last + 1])
