"""Chooses the endpoint of each target: its current one, else the one in its route, else one by memory. Pure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from contracts.routes import Route
from contracts.vocabulary import Deployable
from decisions.serving.runtimes import runtime_name
from services.server_manager.domain.reconcile import (
    Desired,
    Held,
    Key,
    Limits,
    Memory,
    Phase,
    Rank,
    held_sizes,
    production_of,
    rank,
)
from services.server_manager.domain.records import Lease, Servers
from services.server_manager.domain.traffic import next_previous

Counterparts = Mapping[str, frozenset[str]]
"""By target name: the targets that should be on other endpoints, so that one failure does not affect both."""
Filter = Callable[[str], str]
"""Returns why an endpoint is excluded; empty if it is not."""
Sorter = Callable[[str], int]
"""Returns an endpoint's score; smaller is better."""
MIB = 2**20


@dataclass(frozen=True)
class Fleet:
    """The replicas and endpoints of a fleet, input of placement.

    Attributes:
        limits: the endpoints and their memory.
        held: the state of each target's home, by target name.
        copies: the state of each copy.
        named: the endpoints in routes, by target name.
        apart: targets that should not share an endpoint, both ways.
        lost: endpoints silent for long; new targets go there only if no other endpoint is left.
        earlier: the previously chosen home, by target name.
        unlisted: endpoints that have not listed their targets yet.
        drained: endpoints that take new targets only if no other is left; their targets stay until transferred
            (`domain.drains`).
        answering: endpoints that answer; for drains only.
    """

    limits: Limits
    held: Mapping[str, Held] = field(default_factory=dict)
    copies: Mapping[Key, Held] = field(default_factory=dict)
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    apart: Counterparts = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    earlier: Mapping[str, str] = field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    answering: Collection[str] = ()


def assign(
    candidates: Iterable[str], filters: Sequence[Filter], sorters: Sequence[Sorter]
) -> tuple[str | None, list[str]]:
    """Return the best endpoint that passes all filters (None if none does), and the reasons against the excluded ones.

    Sorters apply in order; the first of equal endpoints is chosen.
    """
    whys = {endpoint: next(filter(None, (refuse(endpoint) for refuse in filters)), "") for endpoint in candidates}
    left = [endpoint for endpoint, why in whys.items() if not why]
    best = min(left, key=lambda endpoint: [sort(endpoint) for sort in sorters], default=None)
    return best, [f"{endpoint} {why}" for endpoint, why in whys.items() if why]


def is_short(memory: Memory, size: int, endpoint: str) -> bool:
    """Return whether an endpoint has fewer than `size` bytes free (a sorter)."""
    return memory.free(endpoint) < size


def lacks(memory: Memory, size: int, endpoint: str) -> str:
    """Return an endpoint's free memory as text if it is less than `size` bytes, else empty (a filter).

    Free memory is rounded down, so that it is below the printed size.
    """
    free = max(0, memory.free(endpoint))
    printed = f"{free} bytes" if free < MIB else f"{free // MIB} MiB"
    return f"has {printed} free" if is_short(memory, size, endpoint) else ""


def apart_from(name: str, homes: Mapping[str, str], fleet: Fleet) -> list[Sorter]:
    """Return two sorters: the number of a target's counterparts with their home, then with any replica, there."""
    others = fleet.apart.get(name, frozenset())
    return [
        lambda endpoint: sum(homes.get(other) == endpoint for other in others),
        lambda endpoint: sum(endpoint in fleet.named.get(other, ()) for other in others),
    ]


def plan_homes(desired: Mapping[str, Desired], fleet: Fleet) -> dict[str, str]:
    """Return the home of each target with a runtime in the fleet, by name.

    Loaded and routed targets stay. A new target goes to an endpoint with enough memory, else it waits for memory.
    Preferred, in this order: no home of a counterpart there; no copy of one; room without removing copies; the least
    reserved memory; the first. A production target is placed anew, if it fits elsewhere, when its endpoint is lost, or
    when it is not loaded and would share an endpoint with its counterpart.
    """
    limits, homes = fleet.limits, dict[str, str]()
    open_ones: list[tuple[str, Deployable, list[str]]] = []
    for name, target in rank(desired):
        candidates = endpoints_of(target.deployable, limits)
        usable = [home for home in candidates if home not in fleet.lost | fleet.drained]
        fixed = next((home for home in _settled(name, target, fleet) if home in candidates), None)
        if fixed is not None:
            homes[name] = fixed
        if usable and target.rank is Rank.PRODUCTION and _is_movable(name, fixed, homes, fleet):
            open_ones.append((name, target.deployable, usable))
        elif candidates and fixed is None:
            open_ones.append((name, target.deployable, usable or candidates))
    memory = Memory(limits, home_sizes(homes, desired, fleet))
    full = Memory(limits, [*memory.taken.items(), *_copied_sizes(homes, desired, fleet)])
    for name, deployable, candidates in open_ones:
        size = limits.memory_bytes(deployable)
        before, earlier = homes.pop(name, None), fleet.earlier.get(name, "")
        keeps_memory = before in fleet.lost  # its memory there is not freed
        if before is not None and not keeps_memory:
            memory.taken[before] -= size
            full.taken[before] -= size
        shares = apart_from(name, homes, fleet)
        is_kept = earlier in candidates and earlier != before and not shares[0](earlier)
        choice = [earlier] if is_kept else candidates
        sorters: list[Sorter] = [*shares, partial(is_short, full, size), full.taken.__getitem__]
        fitting, _ = assign(choice, [partial(lacks, memory, size)], sorters)
        # A replacement chosen earlier stays, even if targets waiting for memory there now count first.
        stays = before is not None and fitting is None and not (is_kept and keeps_memory)
        homes[name] = before if before and stays else fitting or assign(choice, (), sorters)[0] or choice[0]
        if not keeps_memory or homes[name] != before:
            memory.taken[homes[name]] += size
            full.taken[homes[name]] += size
    return homes


def _is_movable(name: str, fixed: str | None, homes: Mapping[str, str], fleet: Fleet) -> bool:
    """Return whether a production target may get another endpoint than its current or routed one."""
    if fixed in fleet.lost:
        return True
    state = fleet.held.get(name)
    is_loaded = state is not None and state.phase is not Phase.FAILED
    return not is_loaded and fixed not in fleet.unlisted and apart_from(name, homes, fleet)[0](fixed or "") > 0


def endpoints_of(deployable: Deployable, limits: Limits) -> list[str]:
    """Return the endpoints with a target's runtime, or the engine of its attached model."""
    attached = limits.attached.get(deployable.target.model)
    if attached is not None:
        return [attached]
    needed = runtime_name(deployable.serving)
    return [endpoint for endpoint, runtime in limits.endpoints.items() if runtime == needed]


def _settled(name: str, target: Desired, fleet: Fleet) -> Iterable[str]:
    """Yield a target's current, routed and earlier chosen endpoint, in this order."""
    state = fleet.held.get(name)
    if state is not None and state.phase is not Phase.FAILED:
        yield state.endpoint
    if target.rank in (Rank.PRODUCTION, Rank.SUSPENDED) and (named := fleet.named.get(name)):
        answering = next((home for home in named if home not in fleet.lost), named[0])
        yield from {answering} - fleet.drained
    if name in fleet.earlier and fleet.earlier[name] not in fleet.lost | fleet.drained:
        yield fleet.earlier[name]


def home_sizes(homes: Mapping[str, str], desired: Mapping[str, Desired], fleet: Fleet) -> Iterator[tuple[str, int]]:
    """Yield endpoint and bytes of each desired target; others are unloaded when memory is needed."""
    for name, target in desired.items():
        if name in homes:
            there = dict(held_sizes([fleet.held[name]] if name in fleet.held else [], fleet.limits)).values()
            yield homes[name], next(iter(there), fleet.limits.memory_bytes(target.deployable))


def _copied_sizes(homes: Mapping[str, str], desired: Mapping[str, Desired], fleet: Fleet) -> Iterator[tuple[str, int]]:
    """Yield endpoint and bytes of each copy in a route."""
    for name in desired.keys() & fleet.named.keys():
        for endpoint in set(fleet.named[name]) - {homes.get(name)}:
            yield endpoint, fleet.limits.memory_bytes(desired[name].deployable)


def find_all_named(routes: Mapping[str, Route], addresses: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the names of the endpoints in routes, by target name, in the route's order.

    Args:
        routes: the routes by model.
        addresses: endpoint name by address for gateways.
    """
    named: dict[str, tuple[str, ...]] = {}
    for served in (served for route in routes.values() for served in production_of(route)):
        homes = tuple(addresses[address] for address in served.endpoints if address in addresses)
        if homes:
            named.setdefault(str(served.target), homes)
    return named


def find_counterparts(record: Servers, routes: Mapping[str, Route]) -> Counterparts:
    """Return the targets that should not share an endpoint.

    These are a model's active target and its other routed targets; the target of a traffic order and its standby; a
    staged candidate and its baseline or active target.
    """
    pairs: list[tuple[Deployable | None, Deployable | None]] = [
        (route.active, behind) for route in routes.values() for behind in production_of(route)
    ]
    for order in record.orders:
        request = order.event.data
        route = routes.get(order.event.subject) or Route(model=order.event.subject)
        pairs.append((request.target, next_previous(route, request.target, request.fallback)))
    for lease in leases_of(record):
        staged, serving = lease.event.data, routes.get(lease.event.subject)
        pairs += [(staged.candidate, staged.baseline), (staged.candidate, serving.active if serving else None)]
    apart: dict[str, set[str]] = {}
    for first, second in pairs:
        if first is not None and second is not None and first.target != second.target:
            apart.setdefault(str(first.target), set()).add(str(second.target))
            apart.setdefault(str(second.target), set()).add(str(first.target))
    return {name: frozenset(others) for name, others in apart.items()}


def leases_of(record: Servers) -> list[Lease]:
    """Return the staging orders, the held one first."""
    return [*([record.lease] if record.lease is not None else []), *record.waiting]


def plan_all_homes(record: Servers, desired: Mapping[str, Desired], fleet: Fleet) -> dict[str, str]:
    """Return the home of each desired target, and of targets waiting to be staged, by name."""
    homes = plan_homes(desired, fleet)
    for lease in record.waiting:
        pair = (lease.event.data.baseline, lease.event.data.candidate)
        staged = {
            str(deployable.target): Desired(deployable, Rank.STAGING)
            for deployable in pair
            if str(deployable.target) not in homes
        }
        if staged:
            beside = plan_homes({**desired, **staged}, fleet)
            homes |= {name: beside[name] for name in staged.keys() & beside.keys()}
    return homes


def find_lost(silent_s: Mapping[str, float], limits: Limits) -> frozenset[str]:
    """Return the endpoints silent for at least `silent_limit_s`."""
    return frozenset(name for name, seconds in silent_s.items() if seconds >= limits.silent_limit_s)
