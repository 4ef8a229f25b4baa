"""What to answer: which lease to grant, fail or announce; which traffic order to refuse or carry out."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from contracts.codes import Code
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Deployable
from decisions.route_edits import EditRefused, promote
from decisions.runtimes import runtime_name, why_no_runtime
from decisions.servable_variants import why_not_servable
from services.server_manager.domain.reconcile import Held, Limits, Phase, plan_kept, plan_production
from services.server_manager.domain.records import Lease, Servers, TrafficOrder


@dataclass(frozen=True)
class GrantLease:
    """The waiting order gets the lease."""

    lease_id: str


@dataclass(frozen=True)
class FailLease:
    """The staging order cannot be carried out."""

    lease: Lease
    code: Code
    reason: str
    details: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class AnnounceStaged:
    """Candidate and baseline generate, after so many seconds: publish it."""

    lease: Lease
    load_s: float = 0.0


@dataclass(frozen=True)
class RefuseOrder:
    """The traffic order is not carried out."""

    order: TrafficOrder
    code: Code
    reason: str


@dataclass(frozen=True)
class ApplyOrder:
    """Everything that the traffic order needs is ready: edit the route."""

    order: TrafficOrder


Answer = GrantLease | FailLease | AnnounceStaged | RefuseOrder | ApplyOrder


def decide_answers(
    record: Servers,
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    limits: Limits,
    now: datetime,
    *,
    waited_s: Mapping[str, float],
    unreadable: Collection[str] = (),
    down: Collection[str] = (),
) -> list[Answer]:
    """Return every answer that is due now. Each is written with an edit after which it is no longer due.

    Args:
        record: The orders and leases.
        routes: What production needs, by model.
        held: What the fleet holds.
        limits: How long orders count, and what fits.
        now: The wall clock's time. Only whether an order is still valid is judged by it.
        waited_s: Seconds since each traffic order, and the held lease, was first seen, by a clock that does not jump.
        unreadable: Models whose route cannot be read: their orders wait, and nothing waits for them.
        down: Runtimes that do not answer: what is to be staged there waits, and lets others go first; what they hold
            counts as not ready, so that no traffic is switched to it and it is no target to roll back to.
    """
    record = record.model_copy(
        update={"orders": tuple(order for order in record.orders if order.event.subject not in unreadable)}
    )
    answers: list[Answer] = []
    answering = {name: target for name, target in held.items() if target.runtime not in down}
    ended = {closed.release_id for closed in record.closed if closed.candidate is None}
    for order in record.orders:
        has_ended = order.event.data.release_id in ended
        seconds = waited_s.get(order.order_id, 0.0)
        answer = decide_order(order, routes, answering, limits, now, waited_s=seconds, ended=has_ended)
        if answer is not None:
            answers.append(answer)
    if record.lease is not None:
        answer = decide_held_lease(record.lease, answering, limits, waited_s.get(record.lease.lease_id, 0.0))
        if answer is not None:
            answers.append(answer)
    kept = plan_kept(routes, unreadable, record.temporary, held)
    kept_bytes = {name: held[name].memory_bytes for name in kept if held[name].phase is not Phase.FAILED}
    return answers + decide_waiting(record, routes, limits, now, kept_bytes=kept_bytes, down=down)


# -- staging --------------------------------------------------------------------------------------------------------


def decide_held_lease(lease: Lease, held: Mapping[str, Held], limits: Limits, waited_s: float) -> Answer | None:
    """Announce a lease whose targets are both ready; fail it when one of them cannot be loaded."""
    if lease.state != "loading":
        return None
    request = lease.event.data
    targets = [held.get(str(deployable.target)) for deployable in (request.candidate, request.baseline)]
    if all(target is not None and target.phase is Phase.READY for target in targets):
        return AnnounceStaged(lease, waited_s)
    for deployable, target in zip((request.candidate, request.baseline), targets, strict=True):
        if target is not None and has_failed(target, limits):
            return FailLease(
                lease, target.code or "load_failed", f"{deployable.target} could not be loaded: {target.reason}"
            )
    return None


def has_failed(held: Held, limits: Limits) -> bool:
    """Return whether a target failed so that waiting for it is over."""
    return held.phase is Phase.FAILED and (held.hopeless or held.failures >= limits.load_attempts)


def decide_waiting(
    record: Servers,
    routes: Mapping[str, Route],
    limits: Limits,
    now: datetime,
    *,
    kept_bytes: Mapping[str, int],
    down: Collection[str] = (),
) -> list[Answer]:
    """Fail at once what can never fit; grant the first that fits now when nothing else comes first.

    Traffic orders come first, and one lease is held at a time, so that a benchmark has the machine to itself. What is
    never unloaded (`kept_bytes`) takes memory like production, but only until its route is known: what does not fit
    beside it waits, and lets others go first.
    """
    answers: list[Answer] = []
    production = plan_production(routes)
    free = record.lease is None and not record.orders
    for lease in record.waiting:
        request = lease.event.data
        pair = {str(deployable.target): deployable for deployable in (request.candidate, request.baseline)}
        everything = {**production, **pair}
        needed = needed_bytes(everything.values(), limits)
        age_s = (now - lease.event.time).total_seconds()
        refused = _why_refused(request.candidate, limits, pair.values())
        if age_s > limits.lease_age_s:
            answers.append(FailLease(lease, "order_expired", _old("staging", age_s, limits.lease_age_s)))
        elif refused is not None:
            answers.append(FailLease(lease, *refused))
        elif needed_bytes(pair.values(), limits) > limits.memory_budget_bytes:
            answers.append(_too_big(lease, needed_bytes(pair.values(), limits), limits, "alone"))
        elif not free or any(runtime_name(deployable.serving) in down for deployable in pair.values()):
            continue
        elif needed > limits.memory_budget_bytes:
            answers.append(_too_big(lease, needed, limits, "beside production"))
            free = False
        elif needed + _bytes_besides(kept_bytes, everything) <= limits.memory_budget_bytes:
            answers.append(GrantLease(lease.lease_id))
            free = False
    return answers


def _why_refused(
    deployable: Deployable, limits: Limits, together: Iterable[Deployable] = ()
) -> tuple[Code, str] | None:
    """Return code and reason if the fleet's hardware cannot serve a target, or it lacks the runtime of one of these."""
    unservable = why_not_servable(deployable.target.variant, limits.hardware, deployable.serving)
    if unservable is not None:
        return "variant_not_servable", unservable
    for each in (deployable, *together):
        missing = why_no_runtime(each.serving, limits.runtimes)
        if missing is not None:
            return "runtime_unknown", f"{each.target}: {missing}"
    return None


def _bytes_besides(sizes: Mapping[str, int], names: Collection[str]) -> int:
    return sum(size for name, size in sizes.items() if name not in names)


def _old(kind: str, age_s: float, limit_s: float) -> str:
    return f"The {kind} order was given {age_s / 3600:.0f} h ago; it is valid for {limit_s / 3600:.0f} h."


def _too_big(lease: Lease, needed: int, limits: Limits, how: str) -> FailLease:
    there = limits.memory_budget_bytes
    reason = f"Staging needs {needed} bytes {how}, the serving fleet has {there}."
    return FailLease(lease, "insufficient_memory", reason, (("needed_bytes", needed), ("available_bytes", there)))


def needed_bytes(targets: Iterable[Deployable], limits: Limits) -> int:
    """Return what targets reserve together."""
    return sum(limits.memory_bytes(target) for target in targets)


# -- traffic --------------------------------------------------------------------------------------------------------


def decide_order(
    order: TrafficOrder,
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    limits: Limits,
    now: datetime,
    *,
    waited_s: float,
    ended: bool = False,
) -> Answer | None:
    """Refuse a traffic order that cannot be carried out, apply it when its targets are ready, else wait.

    `waited_s` says how long the order is known to the process that leads, `now` what its wall clock shows. `ended` says
    that the order's release has ended: what comes of it now was delivered again.
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
    )
    if isinstance(refused, EditRefused):
        return RefuseOrder(order, refused.code, refused.reason)
    if route.cause_id == order.order_id:
        return ApplyOrder(order)
    void = _void(order, waited_s, limits, now, ended=ended)
    if void is not None:
        return RefuseOrder(order, "order_expired", void)
    unservable = _why_refused(request.target, limits)
    if unservable is not None:
        return RefuseOrder(order, *unservable)
    needed = {str(request.target.target): request.target, **plan_production(routes)}
    if request.fallback is not None and route.active is None:
        needed[str(request.fallback.target)] = request.fallback
    total = needed_bytes(needed.values(), limits)
    if total > limits.memory_budget_bytes:
        reason = f"Serving {request.target.target} beside production needs {total} bytes of memory, there are "
        return RefuseOrder(order, "insufficient_memory", f"{reason}{limits.memory_budget_bytes}.")
    return _decide_ready(order, route, held, limits, waited_s)


def _void(order: TrafficOrder, waited_s: float, limits: Limits, now: datetime, *, ended: bool) -> str | None:
    """Return why an order is not valid any more; None if it is.

    Its age is the largest of what the clocks show, so that a clock that is behind makes no old order valid again.
    """
    given_at = order.event.time
    known_s = max(0.0, (order.received_at - given_at).total_seconds()) + waited_s
    age_s = max(known_s, (now - given_at).total_seconds())
    if age_s > limits.order_age_s:
        return _old("traffic", age_s, limits.order_age_s)
    return f"The release {order.event.data.release_id} has ended, so its traffic orders are void." if ended else None


def _decide_ready(
    order: TrafficOrder, route: Route, held: Mapping[str, Held], limits: Limits, waited_s: float
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
        return RefuseOrder(
            order, "previous_not_ready", _standby_not_ready(behind, f"not ready after {limits.order_deadline_s:g} s")
        )
    return RefuseOrder(
        order, "load_failed", f"{request.target.target} did not generate within {limits.order_deadline_s:g} s."
    )


def _standby_not_ready(behind: Deployable | None, reason: str) -> str:
    name = behind.target if behind else "Nothing"
    return f"{name} would be the target to roll back to, but it does not answer: {reason}"


def next_previous(route: Route, target: Deployable, fallback: Deployable | None) -> Deployable | None:
    """Return the target to roll back to once `target` takes traffic; None if there is none."""
    if route.active is None:
        return fallback if fallback is not None and fallback.target != target.target else None
    if route.active.target == target.target:
        return route.previous
    return route.active


def provisional(deployable: Deployable, endpoint: str = "unknown") -> ServedTarget:
    """Return a target as a route would hold it, only to ask whether it may enter the route."""
    return ServedTarget(
        target=deployable.target,
        manifest=deployable.manifest,
        weights_bytes=deployable.weights_bytes,
        measurement_manifest=deployable.measurement_manifest,
        serving=deployable.serving,
        runtime=deployable.runtime,
        endpoints=(endpoint,),
    )
