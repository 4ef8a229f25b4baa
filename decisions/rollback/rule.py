"""The rollback rule: on an alert, traffic moves to the previous version, stays, or stays and an operator is paged."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from contracts.codes import Code
from contracts.facts import AlertRaised, AlertUpdated
from contracts.policy import Trigger
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target
from decisions.routes.edits import Changed, EditRefused, put_back, roll_back

Evidence = Literal["answers_nothing", "trigger", "none"]
"""The target is down; an automatic trigger fired; or no evidence that moves traffic."""
Behind = Literal["ready", "too_few", "not_ready", "missing"]
"""State of the previous version: it generates; on too few replicas; not at all; there is none."""
Action = Literal["move", "stay", "page"]

_TABLE: Final[Mapping[tuple[Evidence, Behind, bool], Code | Literal["move"]]] = {
    # evidence, state of previous, whether a version is suspended: `move`, or the code of the page
    ("answers_nothing", "ready", False): "move",
    ("answers_nothing", "ready", True): "move",
    ("answers_nothing", "not_ready", False): "previous_not_ready",
    ("answers_nothing", "not_ready", True): "previous_not_ready",
    ("answers_nothing", "missing", False): "no_previous_target",
    ("answers_nothing", "missing", True): "no_previous_target",
    ("trigger", "ready", False): "move",
    ("trigger", "ready", True): "suspended",
    ("trigger", "too_few", False): "too_few_replicas",
    ("trigger", "too_few", True): "suspended",
    ("trigger", "not_ready", False): "previous_not_ready",
    ("trigger", "not_ready", True): "suspended",
    ("trigger", "missing", False): "no_previous_target",
    ("trigger", "missing", True): "suspended",
}
"""Decisions; without an entry, traffic stays."""


@dataclass(frozen=True)
class Decision:
    """The decision on an alert; a page has the published code and sentence."""

    action: Action
    code: Code | None = None
    reason: str = ""


def decide(evidence: Evidence, behind: Behind, *, suspended: bool, why: str = "") -> Decision:
    """Return the decision on an alert.

    Args:
        evidence: The evidence against the target.
        behind: State of the version that traffic would move to.
        suspended: Whether a version of the model is suspended.
        why: Sentence for a page.
    """
    outcome = _TABLE.get((evidence, behind, suspended))
    if outcome is None:
        return Decision("stay")
    return Decision("move") if outcome == "move" else Decision("page", outcome, why)


def evidence_of(alert: AlertRaised | AlertUpdated, trigger: Trigger | None) -> Evidence:
    """Return the evidence of an alert; with `action: manual` an operator decides, even if the target is down."""
    if trigger is not None and trigger.action != "automatic":
        return "none"
    if alert.answers_nothing:
        return "answers_nothing"
    return "none" if trigger is None else "trigger"


def find_behind(route: Route, failed: Target) -> ServedTarget | EditRefused | None:
    """Return the version that traffic would move to, or the refusal; None if `failed` is not active."""
    edit = roll_back(route, failed, cause_id="plan")
    if isinstance(edit, EditRefused):
        return edit
    return edit.route.active if isinstance(edit, Changed) and edit.cause == "rollback" else None


@dataclass(frozen=True)
class Standby:
    """The state of the version that traffic would move to.

    Attributes:
        why: Why it is not ready.
        target: The probed target; None if no probe is needed.
        needed: Minimum number of replicas that must generate.
        suspended: Whether it is a suspended version that replaces a target that is down.
    """

    behind: Behind = "ready"
    why: str = ""
    target: Target | None = None
    needed: int = 1
    suspended: bool = False


READY = Standby()


def plan_standby(route: Route, alert: AlertRaised | AlertUpdated) -> ServedTarget | Standby:
    """Return the version to probe before traffic moves to it, or a `Standby` without a probe."""
    behind = find_behind(route, alert.target)
    if isinstance(behind, EditRefused):
        return Standby("missing", behind.reason)
    return READY if behind is None else behind


def assess_standby(served: ServedTarget, failure: str | None, *, generates: bool, needed: int) -> Standby:
    """Return the state of the version that traffic would move to.

    Args:
        served: The version.
        failure: Why it generates on fewer replicas than `needed`; None if it generates on enough.
        generates: Whether at least one replica generates.
        needed: Half of the replicas that serve now.
    """
    if failure is None:
        return Standby(target=served.target, needed=needed)
    if generates:
        reason = f"{served.target} generates on fewer than {needed} replicas, half of those that serve now. {failure}"
        return Standby("too_few", reason, served.target)
    reason = f"{served.target} does not generate: {failure}; traffic moves once it does, if the alert lasts."
    return Standby("not_ready", reason, served.target)


def replicas_needed(failed: ServedTarget) -> int:
    """Return the replicas on which a version must generate to replace `failed`: half as many."""
    return math.ceil(len(failed.endpoints) / 2)


def has_recovered(alert: AlertRaised | AlertUpdated) -> bool:
    """Return whether an updated alert is within its limit, or has no requests, so that traffic does not move."""
    if not isinstance(alert, AlertUpdated) or alert.limit is None or alert.answers_nothing:
        return False
    return alert.value is None or alert.value <= alert.limit


def describe_protection(route: Route) -> str:
    """Return a sentence on where traffic can move while a version is suspended or returns; empty if none is."""
    if not put_back(route) or route.active is None:
        return ""
    to = f"for {route.previous.target}" if route.previous is not None else "for a suspended version that generates"
    return f"until that is decided, {route.active.target} is left only if it answers nothing, {to}"


def rollback_id(cause_id: str) -> str:
    """Return the id of the rollback that an event causes; deterministic."""
    return "rb-" + hashlib.sha256(cause_id.encode()).hexdigest()[:16]
