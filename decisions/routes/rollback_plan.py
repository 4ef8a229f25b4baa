"""The effect of an operator's rollback order on a route, for display. Pure."""

from typing import Any

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target
from decisions.routes import edits as route_edits


def plan_rollback(route: Route, failed: Target, to_version: int | None) -> dict[str, Any]:
    """Return the effect of a rollback order on a route as JSON data."""
    edit = route_edits.roll_back(route, failed, cause_id="dry-run", to_version=to_version)
    plan: dict[str, Any] = {"model": route.model, "failed": str(failed), "epoch": route.epoch}
    if isinstance(edit, route_edits.EditRefused):
        # the target is neither active nor a canary
        code = "not_in_traffic" if edit.code == "stale_epoch" else edit.code
        return {**plan, "refused": {"code": code, "reason": edit.reason}}
    after = edit.route
    canary = route.canary_in_traffic if after.canary_in_traffic is None else None
    return {
        **plan,
        "refused": None,
        "cause": edit.cause if isinstance(edit, route_edits.Changed) else "rollback",
        "active_before": _name(route.active),
        "active_after": _name(after.active),
        "epoch_after": after.epoch,
        "aborts_canary": _name(canary.served) if canary is not None else None,
        "ends_shadow": _name(route.shadowed) if after.shadowed is None else None,
        "previous_after": _name(after.previous),
        "quarantined_after": [str(target) for target in after.quarantined],
    }


def _name(served: ServedTarget | None) -> str | None:
    return str(served.target) if served is not None else None
