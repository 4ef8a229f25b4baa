"""What a rollback that is ordered at gateways changes there, and when it is void. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.codes import Code
from contracts.gateway_rollbacks import VALID, GatewayRollback
from contracts.routes import Route
from decisions.orders import CLOCK_SKEW, assess_epoch
from decisions.rollback import rollback_id
from decisions.route_edits import Changed, EditRefused, roll_back


@dataclass(frozen=True)
class Void:
    """An order that changes nothing, and why."""

    code: Code
    reason: str


def assess_times(order: GatewayRollback, now: datetime) -> Void | None:
    """Return why an order does not count now, by the caller's clock; None if it does."""
    until = min(order.expires_at, order.issued_at + VALID)
    if order.issued_at - now > CLOCK_SKEW:
        reason = (
            f"The order is of {order.issued_at.isoformat(timespec='seconds')}, and it is "
            f"{now.isoformat(timespec='seconds')} here; the limit is {CLOCK_SKEW}. Check both clocks."
        )
        return Void("order_expired", reason)
    if now < until:
        return None
    reason = (
        f"The order was valid until {until.isoformat(timespec='seconds')}; it is "
        f"{now.isoformat(timespec='seconds')} here. Order again, and check both clocks."
    )
    return Void("order_expired", reason)


def apply_order(route: Route, order: GatewayRollback, followed: int | None = None) -> Route | Void:
    """Return the route without the failed target, or why the order is void for this route.

    Args:
        route: what is served now.
        order: the order.
        followed: the epoch of the order that led to this route, but for moves, if a rollback at a gateway did. An order
            that follows from it may be of any epoch after that: the bus's route may have been moved between or after
            them.
    """
    if order.failed is None or order.failed.model != order.model or route.model != order.model:
        return Void("malformed_event", f"The order names no target of {route.model}.")
    if route.last_edit_id == rollback_id(order.order_id):
        return route
    since = route.epoch - route.moves if followed is None else followed + 1
    stale = assess_epoch(order.epoch, route.epoch, route.model, since)
    if order.epoch is None or stale is not None:
        return Void("stale_epoch", stale or "The order names no epoch.")
    edit = roll_back(route, order.failed, cause_id=rollback_id(order.order_id))
    if isinstance(edit, EditRefused):
        return Void("not_in_traffic" if edit.code == "stale_epoch" else edit.code, edit.reason)
    return edit.route if isinstance(edit, Changed) else route


def overridden(route: Route, orders: Sequence[GatewayRollback]) -> Route:
    """Return what a gateway serves in place of its route from the bus, after orders in the order of their arrival.

    An order counts for the epoch that it was made for. So a newer route from the bus ends all of them, unless only
    endpoints have changed, and an order that was refused ends those that followed from it.
    """
    followed: int | None = None
    for order in orders:
        changed = apply_order(route, order, followed)
        if isinstance(changed, Route):
            route, followed = changed, order.epoch
    return route
