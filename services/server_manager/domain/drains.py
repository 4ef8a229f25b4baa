"""Drains of endpoints: acceptance of orders, and the next target to transfer. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from contracts.codes import Code
from contracts.vocabulary import Deployable
from decisions.rollback.orders import assess_expiry
from services.server_manager.domain.placement import MIB, Fleet, apart_from, assign, endpoints_of, lacks
from services.server_manager.domain.reconcile import Key, Memory, Phase, held_sizes
from services.server_manager.domain.records import DrainedEndpoint, EndpointOrder, OrderedAt, Servers
from services.server_manager.domain.staging import answered


@dataclass(frozen=True)
class Transfer:
    """A load of a production target on another endpoint, while its drained endpoint (`source`) serves it."""

    name: str
    deployable: Deployable
    source: str
    endpoint: str

    @property
    def key(self) -> Key:
        """The replica to load."""
        return self.endpoint, self.name


@dataclass(frozen=True)
class Waits:
    """Why no target of a drained endpoint can be transferred now."""

    endpoint: str
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Why an endpoint order is refused."""

    code: Code
    reason: str


ADDRESSES_KEPT = 200


def add_addresses(record: Servers, addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses of all past and current endpoints, the current last."""
    now = tuple(addresses)
    return tuple(dict.fromkeys([*(known for known in record.addresses if known not in now), *now]))[-ADDRESSES_KEPT:]


def names_drained(record: Servers) -> frozenset[str]:
    """Return the names of drained endpoints."""
    return frozenset(drained.name for drained in record.drained)


def plan_transfer(
    production: Mapping[str, Deployable], fleet: Fleet, skipped: Collection[str] = ()
) -> Transfer | Waits | None:
    """Return the next transfer, or the reason to wait; None if no target is left to transfer.

    Args:
        production: the targets that production keeps loaded, by name, in order of priority.
        fleet: the replicas and the endpoints.
        skipped: targets that must not be transferred now, such as after a recent failure.
    """
    limits, waits = fleet.limits, None
    homes = {name: state.endpoint for name, state in fleet.held.items()}
    memory = Memory(limits, held_sizes([*fleet.held.values(), *fleet.copies.values()], limits))

    def refuse(endpoint: str) -> str:
        return "is drained" if endpoint in fleet.drained else "" if endpoint in fleet.answering else "does not answer"

    for name, deployable in production.items():
        state = fleet.held.get(name)
        if state is None or state.endpoint not in fleet.drained or state.phase is not Phase.READY or name in skipped:
            continue
        if state.digest != deployable.manifest.digest:
            continue
        needed = limits.corrected(state.digest, state.memory_bytes)
        candidates = endpoints_of(deployable, limits)
        copied = {where for (where, of), copy in fleet.copies.items() if (of, copy.digest) == (name, state.digest)}
        sorters = [*apart_from(name, homes, fleet), memory.taken.__getitem__]
        endpoint, _ = assign(
            [each for each in candidates if each in copied], [refuse], sorters
        )  # a copy already has its memory
        refusals: list[str] = []
        if endpoint is None:
            endpoint, refusals = assign(candidates, [refuse, partial(lacks, memory, needed)], sorters)
        if endpoint is not None:
            return Transfer(name, deployable, state.endpoint, endpoint)
        measured = limits.measured.get(state.digest)
        both = f" ({_size(state.memory_bytes)} reserved, {_size(measured)} measured)" if measured else ""
        reason = f"{name} fits on no endpoint: {', '.join(refusals)}; it needs {_size(needed)} of memory{both}. "
        waits = waits or Waits(state.endpoint, f"{reason}Restore or add an endpoint, add memory, or unload a model.")
    return waits


def _size(size: int) -> str:
    return f"{size} bytes" if size < MIB else f"{-(-size // MIB)} MiB"


def assess_endpoint_order(
    order: EndpointOrder,
    record: Servers,
    production: Mapping[str, Deployable],
    fleet: Fleet,
    now: datetime,
) -> Refusal | None:
    """Return why an endpoint order is refused; None to carry it out.

    A drain is refused unless all production targets of the endpoint fit on others, transferred one by one.
    """
    asked, known = order.event.data, fleet.limits.endpoints
    if asked.endpoint not in known:
        names = ", ".join(known)
        return Refusal("malformed_event", f"The fleet has no endpoint {asked.endpoint}; it has {names}.")
    late = assess_expiry(order.event.time, order.received_at, asked.expires_at, now)
    if late is not None:
        return Refusal("order_expired", late)
    newest = record.ordered.get(asked.endpoint)
    # By both clocks: a slow clock of a bus server makes no order late.
    if newest is not None and order.received_at < newest.stored_at and order.event.time < newest.given_at:
        reason = f"A later order about {asked.endpoint} was carried out before this one, which was delivered again."
        return Refusal("superseded", reason)
    if not asked.drained:
        return None
    drained, runtime = names_drained(record) | {asked.endpoint}, known[asked.endpoint]
    others = [name for name, serves in known.items() if serves == runtime and name not in drained]
    if not any(name in fleet.answering for name in others):
        reason = (
            f"{asked.endpoint} is the last endpoint of the runtime {runtime} that answers and is not drained, so what "
            "it serves has nowhere to go. Add an endpoint to SERVER_MANAGER_ENDPOINTS, or restore another one."
        )
        return Refusal("insufficient_memory", reason)
    return _assess_memory(asked.endpoint, production, replace(fleet, drained=drained))


def _assess_memory(endpoint: str, production: Mapping[str, Deployable], fleet: Fleet) -> Refusal | None:
    """Return the refusal for a target that fits on no other endpoint; None if all targets fit."""
    held = {
        name: replace(state, phase=Phase.READY) if name in production and state.endpoint == endpoint else state
        for name, state in fleet.held.items()
        if state.unneeded_s is None  # unneeded targets are unloaded for it
    }
    for _ in held:
        homes = {(state.endpoint, name) for name, state in held.items()}
        copies = {key: copy for key, copy in fleet.copies.items() if key not in homes}
        planned = plan_transfer(production, replace(fleet, held=held, copies=copies))
        if isinstance(planned, Waits):
            return Refusal("insufficient_memory", f"{endpoint} cannot be drained: {planned.reason}")
        if planned is None:
            break
        held[planned.name] = replace(held[planned.name], endpoint=planned.endpoint)
    return None


# -- the record --------------------------------------------------------------------------------------------------------


def enqueue_endpoint_order(record: Servers, order: EndpointOrder) -> Servers:
    """Queue an endpoint order, unless it is queued or answered."""
    known = {waiting.order_id for waiting in record.endpoint_orders}
    if order.order_id in record.answered or order.order_id in known:
        return record
    return record.model_copy(update={"endpoint_orders": (*record.endpoint_orders, order)})


def answer_endpoint_order(record: Servers, order_id: str, *, carried_out: bool) -> Servers:
    """Remove an answered endpoint order; if `carried_out`, mark the endpoint drained or in use, as ordered."""
    order = next((waiting for waiting in record.endpoint_orders if waiting.order_id == order_id), None)
    if order is None:
        return record
    asked, drained, ordered = order.event.data, record.drained, record.ordered
    if carried_out:
        known = next((marked for marked in drained if marked.name == asked.endpoint), None)
        others = tuple(marked for marked in drained if marked.name != asked.endpoint)
        new = known or DrainedEndpoint(
            name=asked.endpoint, actor=order.event.sender, reason=asked.reason, since=order.received_at
        )
        drained = (*others, new) if asked.drained else others
        ordered = {**ordered, asked.endpoint: OrderedAt(given_at=order.event.time, stored_at=order.received_at)}
    rest = tuple(waiting for waiting in record.endpoint_orders if waiting.order_id != order_id)
    changed = {"endpoint_orders": rest, "drained": drained, "ordered": ordered, "answered": answered(record, order_id)}
    return record.model_copy(update=changed)
