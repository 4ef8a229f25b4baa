"""The version that an alert would move traffic to: which it is, and whether it can take the load. Pure."""

from dataclasses import dataclass

from contracts.facts import AlertRaised, AlertUpdated
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target
from decisions.rollback.rule import Behind, find_behind
from decisions.routes.edits import EditRefused


@dataclass(frozen=True)
class Standby:
    """The version that traffic would move to, as it is when an alert is decided.

    Attributes:
        why: What it lacks.
        target: Which was asked; None: nothing has to be asked.
        needed: On how many replicas it has to generate.
        suspended: It is not previous, but a suspended version that generates, where the active one answers nothing.
    """

    behind: Behind = "ready"
    why: str = ""
    target: Target | None = None
    needed: int = 1
    suspended: bool = False


READY = Standby()


def plan_standby(route: Route, alert: AlertRaised | AlertUpdated) -> ServedTarget | Standby:
    """Return the version that must generate before traffic moves to it, or what stands against it, or for it, as it is.

    A canary's share goes to the active version, which serves already.
    """
    behind = find_behind(route, alert.target)
    if isinstance(behind, EditRefused):
        return Standby("missing", behind.reason)
    return READY if behind is None else behind


def assess_standby(served: ServedTarget, failure: str | None, *, generates: bool, needed: int) -> Standby:
    """Return how the version is that traffic would move to.

    Args:
        served: That version.
        failure: Why it does not generate on as many replicas as are `needed`; None if it does.
        generates: It does on one of them.
        needed: Half of those that serve now.
    """
    if failure is None:
        return Standby(target=served.target, needed=needed)
    if generates:
        reason = f"{served.target} generates on fewer than {needed} replicas, half of those that serve now. {failure}"
        return Standby("too_few", reason, served.target)
    reason = f"{served.target} does not generate: {failure}; traffic moves once it does, if the alert lasts."
    return Standby("not_ready", reason, served.target)
