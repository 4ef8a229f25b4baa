"""Endpoints that are drained: which orders are accepted, and what is loaded elsewhere next. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from contracts.codes import Code
from contracts.vocabulary import Deployable
from decisions.rollback.orders import assess_expiry
from services.server_manager.domain.moves import Copy
from services.server_manager.domain.placement import Counterparts, choose_endpoint, endpoints_of
from services.server_manager.domain.reconcile import Held, Key, Limits, Phase, held_sizes, sum_sizes
from services.server_manager.domain.records import DrainedEndpoint, EndpointOrder, OrderedAt, Servers
from services.server_manager.domain.staging import answered


@dataclass(frozen=True)
class Fleet:
    """What is known of a fleet when something of it is to be loaded elsewhere.

    Attributes:
        production: the targets that production keeps loaded, by name, those that matter more first.
        held: every target as it is.
        copies: what endpoints may hold besides.
        apart: the targets that should not share an endpoint.
        answering: the endpoints that answer.
        serving: the endpoints on which copies generate that are to be there, by the target's name.
        arriving: the endpoints that have, or are loading, copies that are to be there, proven or not.
    """

    production: Mapping[str, Deployable]
    held: Mapping[str, Held]
    copies: Collection[Copy]
    apart: Counterparts
    answering: Collection[str]
    serving: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arriving: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """A target of production is to be loaded on another endpoint, while the one that it leaves serves it."""

    name: str
    deployable: Deployable
    source: str
    endpoint: str

    @property
    def key(self) -> Key:
        """The replica that is to be loaded."""
        return self.endpoint, self.name


@dataclass(frozen=True)
class Waits:
    """Nothing can be loaded elsewhere now, and why."""

    name: str
    endpoint: str
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Why an order about an endpoint is not carried out."""

    code: Code
    reason: str


ADDRESSES_KEPT = 200
MIB = 2**20


def add_addresses(record: Servers, addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses of all endpoints that the fleet has had, the newest last."""
    now = tuple(addresses)
    return tuple(dict.fromkeys([*(known for known in record.addresses if known not in now), *now]))[-ADDRESSES_KEPT:]


def names_drained(record: Servers) -> frozenset[str]:
    """Return the endpoints that are drained."""
    return frozenset(drained.name for drained in record.drained)


def plan_transfer(
    fleet: Fleet, limits: Limits, drained: Collection[str], skipped: Collection[str] = ()
) -> Transfer | Waits | None:
    """Return the next target to load elsewhere, or the reason to wait; None if all have moved.

    Args:
        fleet: what is known.
        limits: the endpoints and their memory.
        drained: the endpoints that are to be empty.
        skipped: targets whose last try failed a moment ago.
    """
    homes = {name: state.endpoint for name, state in fleet.held.items()}
    reserved = sum_sizes([*held_sizes(fleet.held.values(), limits), *(copy.size for copy in fleet.copies)])
    waits: Waits | None = None
    for name, deployable in fleet.production.items():
        moved = fleet.held.get(name)
        if moved is None or moved.endpoint not in drained or moved.phase is not Phase.READY or name in skipped:
            continue
        if moved.digest != deployable.manifest.digest:
            continue
        usable = [
            endpoint
            for endpoint in endpoints_of(deployable, limits)
            if endpoint in fleet.answering and endpoint not in drained
        ]
        if not usable:
            reason = f"{name} has no other endpoint of its runtime that answers and is not drained."
            waits = waits or Waits(name, moved.endpoint, reason)
            continue
        copied = [endpoint for endpoint in fleet.arriving.get(name, ()) if endpoint in usable]
        if copied:  # a second load of it there would take its memory twice, and unload both where it fails
            reason = f"a copy of {name} on {copied[0]} is loaded or probed, and not named by its route yet."
            waits = waits or Waits(name, moved.endpoint, reason)
            continue
        there = [copy.endpoint for copy in fleet.copies if (copy.name, copy.digest) == (name, moved.digest)]
        for endpoint in [endpoint for endpoint in there if endpoint in usable]:  # its memory is taken already
            return Transfer(name, deployable, moved.endpoint, endpoint)
        needed = limits.corrected(moved.digest, moved.memory_bytes)
        endpoint, fits = choose_endpoint(name, needed, usable, homes, reserved, limits=limits, apart=fleet.apart)
        if fits:
            return Transfer(name, deployable, moved.endpoint, endpoint)
        waits = waits or Waits(name, moved.endpoint, _describe_shortage(name, moved, usable, reserved, limits))
    return waits


def _describe_shortage(
    name: str, state: Held, usable: Iterable[str], reserved: Mapping[str, int], limits: Limits
) -> str:
    taken = limits.by_pool(reserved.items())
    free = [
        f"{endpoint} has {_free(max(0, limits.pool_bytes(limits.pool(endpoint)) - taken[limits.pool(endpoint)]))} free"
        for endpoint in usable
    ]
    measured = limits.measured.get(state.digest)
    both = f" ({_size(state.memory_bytes)} reserved, {_size(measured)} measured)" if measured else ""
    needed = limits.corrected(state.digest, state.memory_bytes)
    return (
        f"{name} needs {_size(needed)} of memory{both} beside what is loaded: "
        f"{', '.join(free)}. Add an endpoint or memory, or unload a model."
    )


def _size(size: int) -> str:
    return f"{size} bytes" if size < MIB else f"{-(-size // MIB)} MiB"


def _free(size: int) -> str:
    """Return a size rounded down, so that a printed size that does not fit exceeds the printed free size."""
    return f"{size} bytes" if size < MIB else f"{size // MIB} MiB"


def assess_endpoint_order(
    order: EndpointOrder, record: Servers, fleet: Fleet, limits: Limits, now: datetime
) -> Refusal | None:
    """Return why an order about an endpoint is refused; None if it is carried out.

    An endpoint is drained only where all that it serves of production fits on others one after the other.
    """
    asked, known = order.event.data, limits.endpoints
    if asked.endpoint not in known:
        names = ", ".join(known)
        return Refusal("malformed_event", f"The fleet has no endpoint {asked.endpoint}; it has {names}.")
    late = assess_expiry(order.event.time, order.received_at, asked.expires_at, now)
    if late is not None:
        return Refusal("order_expired", late)
    newest = record.ordered.get(asked.endpoint)
    # Earlier by both clocks: a server of the bus whose clock is behind makes no order late.
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
    return _assess_memory(asked.endpoint, drained, fleet, limits)


def _assess_memory(endpoint: str, drained: Collection[str], fleet: Fleet, limits: Limits) -> Refusal | None:
    """Return which target of an endpoint fits nowhere else; None if all do, one after the other."""
    held = {
        name: replace(state, phase=Phase.READY) if name in fleet.production and state.endpoint == endpoint else state
        for name, state in fleet.held.items()
        if state.unneeded_s is None  # what nothing needs makes way
    }
    for name, state in held.items():  # what has a copy elsewhere is served by it
        there = [*fleet.serving.get(name, ()), *fleet.arriving.get(name, ())]
        others = [copy_home for copy_home in there if copy_home not in drained and copy_home in fleet.answering]
        if others and state.endpoint == endpoint:
            held[name] = replace(state, endpoint=others[0])
    homes = {(state.endpoint, name) for name, state in held.items()}
    fleet = replace(fleet, copies=[copy for copy in fleet.copies if (copy.endpoint, copy.name) not in homes])
    for _ in held:
        planned = plan_transfer(replace(fleet, held=held), limits, drained)
        if isinstance(planned, Waits):
            return Refusal("insufficient_memory", f"{endpoint} cannot be drained: {planned.reason}")
        if planned is None:
            break
        held[planned.name] = replace(held[planned.name], endpoint=planned.endpoint)
    return None


# -- the record --------------------------------------------------------------------------------------------------------


def enqueue_endpoint_order(record: Servers, order: EndpointOrder) -> Servers:
    """Put an order about an endpoint in the queue, unless it is there or was answered."""
    known = {waiting.order_id for waiting in record.endpoint_orders}
    if order.order_id in record.answered or order.order_id in known:
        return record
    return record.model_copy(update={"endpoint_orders": (*record.endpoint_orders, order)})


def answer_endpoint_order(record: Servers, order_id: str, *, carried_out: bool) -> Servers:
    """Remove an order about an endpoint that was answered; with `carried_out`, drain the endpoint or use it again."""
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
