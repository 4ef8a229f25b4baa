"""`slipway rollback confirm` and `slipway rollback return`: decide about a version that an alert suspended."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from clients.cli.commands.orders import give_for_route
from clients.cli.connection import StackAddress, ask_bus
from clients.cli.output import CommandError, show_result
from clients.cli.parsing import check_model
from contracts.facts import SuspensionDecided
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.rollback.suspensions import RETURNS
from decisions.routes.edits import put_back

Decision = Literal["confirm", "return"]


@dataclass(frozen=True)
class DecisionOrder:
    """A decision of an operator; without a target about the version that was suspended last."""

    decision: Decision
    reason: str
    until: datetime
    target: Target | None = None
    at_once: bool = False


def decide_suspension(stack: StackAddress, model: str, decided: DecisionOrder, *, wait_s: float, as_json: bool) -> None:
    """Quarantine a suspended version of a model, or let it return; print the result."""
    check_model(model)

    def fact(route: Route | None) -> SuspensionDecided:
        return SuspensionDecided(
            reason=decided.reason,
            target=pick_suspended(route, model, decided.target, at_once=decided.at_once),
            decision=decided.decision,
            at_once=decided.at_once,
            expires_at=decided.until,
            epoch=route.epoch if route is not None else 0,
        )

    answer = ask_bus(stack, lambda js: give_for_route(js, stack, model, fact, wait_s))
    target, epoch = Target.model_validate(answer.details["target"]), answer.details["epoch"]
    line = f"{target} is quarantined (epoch {epoch})"
    if decided.decision == "return" and decided.at_once:
        line = f"{target} takes all traffic again (epoch {epoch})"
    elif decided.decision == "return":
        line = f"{target} {RETURNS} (epoch {epoch}): slipway status {model}"
    show_result({"target": str(target), "epoch": epoch, "decision": decided.decision}, line, as_json=as_json)


def pick_suspended(route: Route | None, model: str, named: Target | None = None, *, at_once: bool = False) -> Target:
    """Return the named or the last suspended target; raise CommandError if it is not suspended.

    With `at_once`, a target that returns as a canary counts as suspended.
    """
    entries = () if route is None else put_back(route) if at_once else route.suspended
    held = [entry.served.target for entry in entries]
    if not held:
        raise CommandError(f"no version of {model} is suspended; see `slipway routes`")
    if named is not None and named not in held:
        raise CommandError(f"{named} is not suspended; see `slipway routes`")
    return named or held[0]
