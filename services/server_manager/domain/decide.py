"""Decides the due answers to orders: leases to grant, return, fail or announce; traffic orders to refuse or apply."""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import partial

from contracts.routes import Route
from contracts.vocabulary import Deployable
from services.server_manager.domain.answer_types import (
    AnnounceStaged,
    Answer,
    FailLease,
    GrantLease,
    ReturnLease,
    describe_age,
    describe_endpoint,
    describe_free,
    describe_measured,
    fits,
    has_failed,
    needed_bytes,
    why_refused,
)
from services.server_manager.domain.kept import plan_kept
from services.server_manager.domain.reconcile import Held, Key, Limits, Phase, home_of, plan_production
from services.server_manager.domain.records import Lease, Servers
from services.server_manager.domain.staging import ended_at
from services.server_manager.domain.traffic import decide_order, decide_outlived, endpoints_of_order, has_outlived


def decide_answers(
    record: Servers,
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    limits: Limits,
    now: datetime,
    *,
    waited_s: Mapping[str, float],
    unreadable: Collection[str] = (),
    down: Mapping[str, float] | None = None,
    homes: Mapping[str, str] | None = None,
    intact_homes: Mapping[str, str] | None = None,
    copies: Mapping[Key, Held] | None = None,
    lacks: Callable[[Deployable], bool] = lambda _target: False,
) -> list[Answer]:
    """Return all answers due now; the edit that stores an answer makes it no longer due.

    Args:
        record: The orders and leases.
        routes: The production routes, by model.
        held: The fleet's targets, by name.
        limits: Validity of orders, and memory limits.
        now: Wall-clock time, for the validity of orders only.
        waited_s: Monotonic seconds since each traffic order, and the held lease, was first seen.
        unreadable: Models with unreadable routes: their orders wait, and block no others.
        down: Seconds of silence by endpoint that does not answer. Orders that need it wait, and others go first. Its
            targets are not ready, so they get no traffic and are no standby, but keep their memory.
        homes: The endpoint of each target, by name.
        intact_homes: The same if no endpoint were lost; an order that fits only there waits.
        copies: Further replicas, which take memory.
        lacks: Returns whether no attached server serves an attached target: its order waits, and others go first.
    """
    down, homes = down or {}, homes or {}
    record = record.model_copy(
        update={"orders": tuple(order for order in record.orders if order.event.subject not in unreadable)}
    )
    copied = {f"{name}@{endpoint}": copy for (endpoint, name), copy in (copies or {}).items()}
    holders = {name: target.endpoint for name, target in held.items()}
    holders |= {name: copy.endpoint for name, copy in copied.items()}
    intact = {**holders, **(homes if intact_homes is None else intact_homes)}
    homes = {**holders, **homes}
    answering = {name: target for name, target in held.items() if target.endpoint not in down}
    ends = {order.order_id: ended_at(record, order.event.data.release_id) for order in record.orders}
    decided = (
        decide_outlived(order, end, now)
        if (end := ends[order.order_id]) is not None and has_outlived(order, routes)
        else decide_order(
            order,
            routes,
            answering,
            limits,
            now,
            waited_s=waited_s.get(order.order_id, 0.0),
            ended=end is not None,
            down=down,
            homes=homes,
            intact_homes=intact,
        )
        for order in record.orders
    )
    answers: list[Answer] = [answer for answer in decided if answer is not None]
    kept = plan_kept(routes, unreadable, record.temporary, held)
    kept_bytes = _occupied_bytes(held, limits, {*kept, *(name for name in held if name not in answering)})
    kept_bytes |= {name: copy.memory_bytes for name, copy in copied.items()}
    decide_free = partial(
        decide_waiting,
        routes=routes,
        limits=limits,
        now=now,
        kept_bytes=kept_bytes,
        down=down,
        homes=homes,
        intact_homes=intact,
        lacks=lacks,
    )
    if record.lease is not None:
        answer = decide_held_lease(record.lease, answering, limits, waited_s.get(record.lease.lease_id, 0.0))
        if answer is None and _would_grant(decide_free(record.model_copy(update={"lease": None}))):
            lost_bytes = {name: size for name, size in kept_bytes.items() if holders[name] in down}
            answer = decide_blocking_lease(
                record.lease,
                plan_production(routes),
                limits,
                down=down,
                occupied_bytes=lost_bytes,
                homes=homes,
                lacks=lacks,
            )
        if answer is not None:
            answers.append(answer)
    return answers + decide_free(record)


def _occupied_bytes(held: Mapping[str, Held], limits: Limits, names: Collection[str]) -> dict[str, int]:
    """Return the bytes of the named targets that are loaded or loading, corrected by measurements."""
    return {
        name: limits.corrected(target.digest, target.memory_bytes)
        for name, target in held.items()
        if name in names and target.phase is not Phase.FAILED
    }


def _would_grant(answers: Iterable[Answer]) -> bool:
    """Return whether the answers grant the lease."""
    return any(isinstance(answer, GrantLease) for answer in answers)


def decide_held_lease(lease: Lease, held: Mapping[str, Held], limits: Limits, waited_s: float) -> Answer | None:
    """Announce a held lease once both targets are ready; fail it if either cannot be loaded; else None."""
    if lease.state != "loading":
        return None
    pair = _pair(lease).values()
    targets = [held.get(str(deployable.target)) for deployable in pair]
    if all(target is not None and target.phase is Phase.READY for target in targets):
        return AnnounceStaged(lease, waited_s)
    for deployable, target in zip(pair, targets, strict=True):
        if target is not None and has_failed(target, limits):
            return FailLease(
                lease, target.code or "load_failed", f"{deployable.target} could not be loaded: {target.reason}"
            )
    return None


def decide_blocking_lease(
    lease: Lease,
    production: Mapping[str, Deployable],
    limits: Limits,
    *,
    down: Mapping[str, float],
    occupied_bytes: Mapping[str, int],
    homes: Mapping[str, str],
    lacks: Callable[[Deployable], bool] = lambda _target: False,
) -> Answer | None:
    """Return the answer that ends or requeues a held lease blocked by a silent endpoint; None if it stays.

    While its targets are loading, the lease is requeued. Once they are staged and measured, it fails after
    `silent_limit_s` of the endpoint's silence.

    Args:
        lease: The held lease.
        production: The targets that production keeps loaded, by name.
        limits: Memory and time limits.
        down: Seconds of silence by endpoint.
        occupied_bytes: Memory of targets on silent endpoints, by name.
        homes: The endpoint of each target, by name.
        lacks: Returns whether no attached server serves an attached target.
    """
    pair = _pair(lease)
    silent = [deployable for deployable in pair.values() if home_of(deployable, homes) in down]
    if lease.state == "loading":
        everything = {**production, **pair}
        needed = {**occupied_bytes, **_sizes(everything, limits)}
        occupied = bool(occupied_bytes) and not fits(needed, homes, limits)
        return ReturnLease(lease.lease_id) if silent or occupied or any(map(lacks, pair.values())) else None
    for deployable in silent:
        name = home_of(deployable, homes)
        if down[name] >= limits.silent_limit_s:
            reason = f"{deployable.target} is staged on {describe_endpoint(name, limits)}, which has not answered for "
            reason += f"{down[name]:.0f} s; the limit is {limits.silent_limit_s:g} s while other orders wait."
            return FailLease(lease, "endpoint_unreachable", reason)
    return None


def decide_waiting(
    record: Servers,
    routes: Mapping[str, Route],
    limits: Limits,
    now: datetime,
    *,
    kept_bytes: Mapping[str, int],
    homes: Mapping[str, str],
    intact_homes: Mapping[str, str],
    down: Collection[str] = (),
    lacks: Callable[[Deployable], bool] = lambda _target: False,
) -> list[Answer]:
    """Fail waiting leases that can never fit; grant the first that fits now, unless a traffic order is pending.

    One lease is held at a time, so that a benchmark has the machine to itself. A traffic order that needs a silent
    endpoint blocks no lease, but keeps its memory. A lease waits, and others go first, if it does not fit beside
    targets that cannot be unloaded now (`kept_bytes`), or fits only after a lost endpoint's return (`intact_homes`).
    """
    answers: list[Answer] = []
    production = plan_production(routes)
    orders = [(order, endpoints_of_order(order, routes, homes)) for order in record.orders]
    free = record.lease is None and not any(needed.isdisjoint(down) for _, needed in orders)
    reserved_bytes = {**_ordered_bytes(record, limits), **kept_bytes}
    for lease in record.waiting:
        pair = _pair(lease)
        everything = {**production, **pair}
        needed = needed_bytes(everything.values(), limits)
        age_s = (now - lease.event.time).total_seconds()
        refused = why_refused(lease.event.data.candidate, limits, pair.values())
        if age_s > limits.lease_age_s:
            answers.append(FailLease(lease, "order_expired", describe_age("staging", age_s, limits.lease_age_s)))
        elif refused is not None:
            answers.append(FailLease(lease, *refused))
        elif needed_bytes(pair.values(), limits) > limits.memory_budget_bytes:
            measured = describe_measured(pair.values(), limits)
            answers.append(_too_big(lease, needed_bytes(pair.values(), limits), limits, "alone", measured))
        elif not free or any(home_of(needed, homes) in down or lacks(needed) for needed in pair.values()):
            continue
        elif not any(fits(_sizes(everything, limits), placed, limits) for placed in (homes, intact_homes)):
            there = describe_free(_sizes(production, limits), homes, limits)
            there += describe_measured(everything.values(), limits)
            answers.append(_too_big(lease, needed, limits, "beside production", there))
        elif fits({**reserved_bytes, **_sizes(everything, limits)}, homes, limits):
            answers.append(GrantLease(lease.lease_id))
            free = False
    return answers


def _pair(lease: Lease) -> dict[str, Deployable]:
    """Return candidate and baseline of a lease, by name."""
    request = lease.event.data
    return {str(deployable.target): deployable for deployable in (request.candidate, request.baseline)}


def _ordered_bytes(record: Servers, limits: Limits) -> dict[str, int]:
    """Return the bytes of the targets and fallbacks of traffic orders, by name."""
    ordered = [order.event.data for order in record.orders]
    targets = [deployable for request in ordered for deployable in (request.target, request.fallback)]
    return {str(target.target): limits.memory_bytes(target) for target in targets if target is not None}


def _sizes(targets: Mapping[str, Deployable], limits: Limits) -> dict[str, int]:
    """Return the bytes of each target, by name."""
    return {name: limits.memory_bytes(target) for name, target in targets.items()}


def _too_big(lease: Lease, needed: int, limits: Limits, how: str, free: str) -> FailLease:
    there = limits.memory_budget_bytes
    reason = f"Staging needs {needed} bytes {how}, the serving fleet has {there}.{free}"
    return FailLease(lease, "insufficient_memory", reason, (("needed_bytes", needed), ("available_bytes", there)))
