"""What lifting a quarantine and a drill would do to a model as it is now. Pure."""

from typing import Final

from contracts.drills import LONGEST
from contracts.facts import DrillFault
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.rollback.drills import describe_fault
from decisions.routes import edits as route_edits
from services.console.domain.order_data import DrillPlan, LiftPlan

LONGEST_MINUTES: Final = int(LONGEST.total_seconds() // 60)


def plan_lift(route: Route, target: Target) -> LiftPlan:
    """Return what lifting a quarantine would do, decided by the function that the rollback-controller uses."""
    edit = route_edits.lift_quarantine(route, target, cause_id="dry-run")
    plan = LiftPlan(model=route.model, target=str(target), epoch=route.epoch, refused=None)
    if isinstance(edit, route_edits.EditRefused):
        return plan.model_copy(update={"refused": {"code": edit.code, "reason": edit.reason}})
    return plan.model_copy(update={"quarantined_after": tuple(str(other) for other in edit.route.quarantined)})


def plan_drill(route: Route, target: Target, fault: DrillFault, *, share: float, minutes: int) -> DrillPlan:
    """Return which requests a drill would affect in production, and how."""
    weight = traffic_of(route, target)
    return DrillPlan(
        model=route.model,
        target=str(target),
        epoch=route.epoch,
        fault=describe_fault(fault),
        share=share,
        traffic=share * weight,
        minutes=minutes,
        previous=_back(route, target),
        refused=_refusal(target, fault, weight),
    )


def traffic_of(route: Route, target: Target) -> float:
    """Return the share of a model's requests that a target takes."""
    canary = route.canary.weight_ratio if route.canary is not None else 0.0
    if route.canary is not None and route.canary.served.target == target:
        return canary
    return 1.0 - canary if route.active is not None and route.active.target == target else 0.0


def _refusal(target: Target, fault: DrillFault, weight: float) -> dict[str, str] | None:
    if weight == 0.0:
        reason = (
            f"{target} takes no traffic in production, so a drill would affect no request: choose a serving target."
        )
        return {"code": "not_in_traffic", "reason": reason}
    if fault.does_nothing:
        return {"code": "malformed_event", "reason": "The fault would change no request: give a value above 0."}
    return None


def _back(route: Route, target: Target) -> str | None:
    """Return what serves after a rollback of a target: the active one if it is a canary, else the previous one."""
    after = route.active if route.active is not None and route.active.target != target else route.previous
    return str(after.target) if after is not None else None
