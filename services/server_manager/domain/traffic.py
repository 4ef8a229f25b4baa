"""Decides traffic orders: refuse, apply, or wait. Pure."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import partial

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Deployable
from decisions.routes.edits import EditRefused, has_trial, promote
from services.server_manager.domain.answer_types import (
    Answer,
    ApplyOrder,
    EndTrial,
    RefuseOrder,
    describe_age,
    describe_endpoint,
    describe_free,
    fits,
    has_failed,
    why_refused,
)
from services.server_manager.domain.reconcile import Held, Limits, Phase, home_of, plan_production
from services.server_manager.domain.records import TrafficOrder

_END_S = 10.0
"""Seconds for the rollback-controller to end and quarantine a trial (canary or shadow) after its release's end.

If clocks differ by more, server-manager does not wait.
"""


def decide_order(
    order: TrafficOrder,
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    limits: Limits,
    now: datetime,
    *,
    waited_s: float,
    ended: bool = False,
    down: Collection[str] = (),
    homes: Mapping[str, str] | None = None,
    intact_homes: Mapping[str, str] | None = None,
) -> Answer | None:
    """Refuse a traffic order that cannot be carried out; apply it when its targets are ready; None to wait.

    `waited_s`: monotonic seconds since the leader first saw the order; `now`: its wall clock; `ended`: whether the
    order's release has ended; `down`: endpoints that do not answer, without targets in `held`; `homes`: endpoint by
    target name; `intact_homes`: the same if no endpoint were lost, an order that fits only there waits.
    """
    request = order.event.data
    model = order.event.subject
    route = routes.get(model) or Route(model=model)
    refused = promote(
        route,
        provisional(request.target),
        weight_ratio=request.weight_ratio,
        epoch=request.epoch,
        cause_id=order.order_id,
        shadow_ratio=request.shadow_ratio,
    )
    if isinstance(refused, EditRefused):
        return RefuseOrder(order, refused.code, refused.reason)
    if route.last_edit_id == order.order_id:
        return ApplyOrder(order)
    void = _void(order, waited_s, limits, now, ended=ended)
    if void is not None:
        return RefuseOrder(order, "order_expired", void)
    fallback = next_previous(route, request.target, request.fallback) if route.active is None else None
    unservable = why_refused(request.target, limits, [fallback] if fallback is not None else [])
    if unservable is not None:
        return RefuseOrder(order, *unservable)
    needed = {str(request.target.target): request.target, **plan_production(routes)}
    if request.fallback is not None and route.active is None:
        needed[str(request.fallback.target)] = request.fallback
    short = _why_too_big(request.target, needed, limits, homes or {})
    may_fit = intact_homes is not None and _why_too_big(request.target, needed, limits, intact_homes) is None
    if short is not None and not may_fit:
        return RefuseOrder(order, "insufficient_memory", short)
    silence = partial(_describe_silence, limits=limits, homes=homes or {}, down=down)
    return _decide_ready(order, route, held, limits, waited_s=waited_s, silence=silence)


def has_outlived(order: TrafficOrder, routes: Mapping[str, Route]) -> bool:
    """Return whether the last edit of the route began or ended an order's canary or shadow."""
    route = routes.get(order.event.subject) or Route(model=order.event.subject)
    stands = route.last_edit_id == order.order_id and has_trial(route, order.event.data.target.target)
    return stands or route.last_edit_id == EndTrial(order).cause_id


def decide_outlived(order: TrafficOrder, ended_at: datetime, now: datetime) -> Answer | None:
    """End the trial of an ended release, after leaving `_END_S` to the rollback-controller; None before."""
    return EndTrial(order) if abs((now - ended_at).total_seconds()) >= _END_S else None


def _why_too_big(
    target: Deployable, needed: Mapping[str, Deployable], limits: Limits, homes: Mapping[str, str]
) -> str | None:
    """Return why an order's targets do not fit, with each endpoint's free memory; None if they fit."""
    sizes = {
        name: limits.reserved_bytes(deployable) for name, deployable in needed.items()
    }  # not measured bytes: it fitted at its staging
    if fits(sizes, homes, limits):
        return None
    others = {name: size for name, size in sizes.items() if name != str(target.target)}
    total, there = sum(sizes.values()), limits.memory_budget_bytes
    reason = f"Serving {target.target} beside production needs {total} bytes of memory, there are {there}."
    return reason + describe_free(others, homes, limits)


def _void(order: TrafficOrder, waited_s: float, limits: Limits, now: datetime, *, ended: bool) -> str | None:
    """Return why an order is no longer valid; None if it is valid.

    The largest age by any clock counts, so that a slow clock makes no old order valid.
    """
    given_at = order.event.time
    known_s = max(0.0, (order.received_at - given_at).total_seconds()) + waited_s
    age_s = max(known_s, (now - given_at).total_seconds())
    if age_s > limits.order_age_s:
        return describe_age("traffic", age_s, limits.order_age_s)
    return f"The release {order.event.data.release_id} has ended, so its traffic orders are void." if ended else None


def _decide_ready(
    order: TrafficOrder,
    route: Route,
    held: Mapping[str, Held],
    limits: Limits,
    *,
    waited_s: float,
    silence: Callable[[Deployable | None], str],
) -> Answer | None:
    request = order.event.data
    candidate = held.get(str(request.target.target))
    if candidate is not None and has_failed(candidate, limits):
        return RefuseOrder(order, "load_failed", f"{request.target.target} could not be loaded: {candidate.reason}")
    behind = next_previous(route, request.target, request.fallback)
    standby = held.get(str(behind.target)) if behind is not None else None
    if standby is not None and has_failed(standby, limits):
        return RefuseOrder(order, "previous_not_ready", _standby_not_ready(behind, standby.reason))
    candidate_ready = candidate is not None and candidate.phase is Phase.READY
    standby_ready = behind is None or (standby is not None and standby.phase is Phase.READY)
    if candidate_ready and standby_ready:
        return ApplyOrder(order)
    if waited_s < limits.order_deadline_s:
        return None
    if candidate_ready:
        late = f"not ready after {limits.order_deadline_s:g} s{silence(behind)}"
        return RefuseOrder(order, "previous_not_ready", _standby_not_ready(behind, late))
    late = f"did not generate within {limits.order_deadline_s:g} s{silence(request.target)}"
    return RefuseOrder(order, "load_failed", f"{request.target.target} {late}.")


def _describe_silence(
    deployable: Deployable | None, *, limits: Limits, homes: Mapping[str, str], down: Collection[str]
) -> str:
    name = home_of(deployable, homes) if deployable is not None else ""
    return f"; its {describe_endpoint(name, limits)[4:]} does not answer" if name in down else ""


def _standby_not_ready(behind: Deployable | None, reason: str) -> str:
    name = behind.target if behind else "Nothing"
    return f"{name} would be the target to roll back to, but it does not answer: {reason}"


def endpoints_of_order(order: TrafficOrder, routes: Mapping[str, Route], homes: Mapping[str, str]) -> set[str]:
    """Return the endpoints that a traffic order needs: its target's and its standby's."""
    request = order.event.data
    route = routes.get(order.event.subject) or Route(model=order.event.subject)
    behind = next_previous(route, request.target, request.fallback)
    return {home_of(needed, homes) for needed in (request.target, behind) if needed is not None}


def next_previous(route: Route, target: Deployable, fallback: Deployable | None) -> Deployable | None:
    """Return the standby after `target` takes traffic; None without one."""
    if route.active is None:
        return fallback if fallback is not None and fallback.target != target.target else None
    if route.active.target == target.target:
        return route.previous
    return route.active


def provisional(deployable: Deployable, endpoint: str = "unknown") -> ServedTarget:
    """Return a target with a placeholder endpoint, to test whether it may enter a route."""
    return ServedTarget(
        target=deployable.target,
        manifest=deployable.manifest,
        weights_bytes=deployable.weights_bytes,
        serving=deployable.serving,
        runtime=deployable.runtime,
        endpoints=(endpoint,),
    )
