"""The effect of lifting a quarantine on a model's current state. Pure."""

from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.routes import edits as route_edits
from services.console.domain.order_data import LiftPlan


def plan_lift(route: Route, target: Target) -> LiftPlan:
    """Return the effect of lifting a quarantine, by the rollback-controller's own function."""
    edit = route_edits.lift_quarantine(route, target, cause_id="dry-run")
    plan = LiftPlan(model=route.model, target=str(target), epoch=route.epoch, refused=None)
    if isinstance(edit, route_edits.EditRefused):
        return plan.model_copy(update={"refused": {"code": edit.code, "reason": edit.reason}})
    return plan.model_copy(update={"quarantined_after": tuple(str(other) for other in edit.route.quarantined)})
