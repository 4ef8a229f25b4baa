"""The rollback rule: on an alert traffic moves to the previous version, stays, or stays and a person is paged.

The rollback-controller decides every alert with it.
"""

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
"""What speaks against the target: it answers nothing; an automatic trigger is at its line; or nothing that moves it."""
Behind = Literal["ready", "too_few", "not_ready", "missing"]
"""The previous version: it generates; for a trigger, on too few replicas; it does not generate; there is none."""
Action = Literal["move", "stay", "page"]

_TABLE: Final[Mapping[tuple[Evidence, Behind, bool], Code | Literal["move"]]] = {
    # evidence, previous, a version is suspended already: traffic moves, or the code of the page
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
"""What decides. Without evidence that moves traffic, it stays."""


@dataclass(frozen=True)
class Decision:
    """The decision on an alert; a page has the code and the sentence that it is published with."""

    action: Action
    code: Code | None = None
    reason: str = ""


def decide(evidence: Evidence, behind: Behind, *, suspended: bool, why: str = "") -> Decision:
    """Return the decision on an alert.

    Args:
        evidence: What speaks against the target.
        behind: The version that traffic would move to.
        suspended: A version of the model is suspended already.
        why: What the previous version lacks, or which version is suspended, for the page.
    """
    outcome = _TABLE.get((evidence, behind, suspended))
    if outcome is None:
        return Decision("stay")
    return Decision("move") if outcome == "move" else Decision("page", outcome, why)


def evidence_of(alert: AlertRaised | AlertUpdated, trigger: Trigger | None) -> Evidence:
    """Return the evidence of an alert; `action: manual` asks for a person, also where the target answers nothing."""
    if trigger is not None and trigger.action != "automatic":
        return "none"
    if alert.answers_nothing:
        return "answers_nothing"
    return "none" if trigger is None else "trigger"


def find_behind(route: Route, failed: Target) -> ServedTarget | EditRefused | None:
    """Return the version that traffic would move to, or why it cannot; None if it needs none, as of a canary."""
    edit = roll_back(route, failed, cause_id="plan")
    if isinstance(edit, EditRefused):
        return edit
    return edit.route.active if isinstance(edit, Changed) and edit.cause == "rollback" else None


@dataclass(frozen=True)
class Standby:
    """The state of the version that traffic would move to, when an alert is decided.

    Attributes:
        why: Why it is not ready.
        target: The target that was probed; None: no probe is needed.
        needed: Minimum number of replicas that must generate.
        suspended: It is not previous, but a suspended version that generates, where the active one answers nothing.
    """

    behind: Behind = "ready"
    why: str = ""
    target: Target | None = None
    needed: int = 1
    suspended: bool = False


READY = Standby()


def plan_standby(route: Route, alert: AlertRaised | AlertUpdated) -> ServedTarget | Standby:
    """Return the version that must generate before traffic moves to it, or a `Standby` that needs no probe.

    A canary's share goes to the active version, which serves already.
    """
    behind = find_behind(route, alert.target)
    if isinstance(behind, EditRefused):
        return Standby("missing", behind.reason)
    return READY if behind is None else behind


def assess_standby(served: ServedTarget, failure: str | None, *, generates: bool, needed: int) -> Standby:
    """Return the state of the version that traffic would move to.

    Args:
        served: That version.
        failure: Why it generates on fewer replicas than `needed`; None if it does not.
        generates: At least one replica generates.
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
    """Return on how many replicas a version must generate to take the load of another: on half as many."""
    return math.ceil(len(failed.endpoints) / 2)


def has_recovered(alert: AlertRaised | AlertUpdated) -> bool:
    """Return whether an alert that lasts is within its limit by now, so that an update of it moves nothing.

    A window without requests is within any limit: if bad ones come again, the next update exceeds it.
    """
    if not isinstance(alert, AlertUpdated) or alert.limit is None or alert.answers_nothing:
        return False
    return alert.value is None or alert.value <= alert.limit


def describe_protection(route: Route) -> str:
    """Return where traffic can still go while a version is suspended or returns as a canary; empty if none is."""
    if not put_back(route) or route.active is None:
        return ""
    to = f"for {route.previous.target}" if route.previous is not None else "for a suspended version that generates"
    return f"until that is decided, {route.active.target} is left only if it answers nothing, {to}"


def rollback_id(cause_id: str) -> str:
    """Return the id of the rollback that an event leads to: always the same one."""
    return "rb-" + hashlib.sha256(cause_id.encode()).hexdigest()[:16]
