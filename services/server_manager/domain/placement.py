"""Chooses the endpoint of each target: where it is, else where a route names it, else apart from its counterpart."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from contracts.routes import Route
from contracts.vocabulary import Deployable
from decisions.serving.runtimes import runtime_name
from services.server_manager.domain.reconcile import Desired, Held, Limits, Phase, Rank, production_of, rank, sum_sizes
from services.server_manager.domain.records import Lease, Servers
from services.server_manager.domain.traffic import next_previous

Counterparts = Mapping[str, frozenset[str]]
"""The targets that each target should not share an endpoint with, by name."""


@dataclass(frozen=True)
class Known:
    """The inputs of placement beside the held targets.

    Attributes:
        named: the endpoints that a route names, by the target's name.
        apart: the targets that should not share an endpoint, both ways.
        lost: endpoints that have been silent for long: nothing new is placed there while another one is left.
        earlier: the endpoint that was chosen for a target before, by its name.
        unlisted: endpoints that have not listed yet what they hold.
        drained: endpoints that take nothing new while another one is left; what is loaded there stays until it is
            loaded elsewhere (`domain.drains`).
    """

    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    apart: Counterparts = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    earlier: Mapping[str, str] = field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()


def plan_homes(
    desired: Mapping[str, Desired], held: Mapping[str, Held], limits: Limits, known: Known
) -> dict[str, str]:
    """Return the endpoint of each target whose runtime the fleet has, by name.

    What is loaded stays where it is, and what a route names stays there. What is new goes to an endpoint where it fits,
    else it waits for memory; of those, to one without its counterpart; of those, to the one that reserves least; of
    those, to the first. Production on an endpoint that is lost, or that is not loaded and would share an endpoint with
    its counterpart, is new where it fits on another one.
    """
    homes: dict[str, str] = {}
    open_ones: list[tuple[str, Deployable, list[str]]] = []
    for name, target in rank(desired):
        candidates = endpoints_of(target.deployable, limits)
        usable = [home for home in candidates if home not in known.lost | known.drained]
        fixed = next((home for home in _settled(name, target, held, known) if home in candidates), None)
        if fixed is not None:
            homes[name] = fixed
        if usable and target.rank is Rank.PRODUCTION and _is_movable(name, fixed, homes, held, known):
            open_ones.append((name, target.deployable, usable))
        elif candidates and fixed is None:
            open_ones.append((name, target.deployable, usable or candidates))
    reserved = homes_bytes(homes, desired, held, limits)
    copied_bytes = _copied_bytes(homes, desired, limits, known)
    for name, deployable, candidates in open_ones:
        size = limits.memory_bytes(deployable)
        before, earlier = homes.pop(name, None), known.earlier.get(name, "")
        keeps_memory = before in known.lost  # on another one it is not loaded
        if before is not None and not keeps_memory:
            reserved[before] -= size
        is_kept = earlier in candidates and earlier != before and not _shared(name, earlier, homes, known.apart)
        choice = [earlier] if is_kept else candidates
        chosen, has_memory = choose_endpoint(
            name,
            size,
            choice,
            homes,
            reserved,
            limits=limits,
            apart=known.apart,
            copied=known.named,
            copied_bytes=copied_bytes,
        )
        # What was chosen for a lost one stays, though others that wait for memory there are counted first by now.
        homes[name] = chosen if before is None or has_memory or (is_kept and before in known.lost) else before
        reserved[homes[name]] += 0 if keeps_memory and homes[name] == before else size
    return homes


def _is_movable(name: str, fixed: str | None, homes: Mapping[str, str], held: Mapping[str, Held], known: Known) -> bool:
    """Return whether a target of production may be loaded elsewhere than it is, or than its route says."""
    if fixed in known.lost:
        return True
    state = held.get(name)
    is_loaded = state is not None and state.phase is not Phase.FAILED
    return not is_loaded and fixed not in known.unlisted and _shared(name, fixed, homes, known.apart) > 0


def _shared(name: str, endpoint: str | None, homes: Mapping[str, str], apart: Counterparts) -> int:
    """Return how many of a target's counterparts are on an endpoint."""
    return sum(1 for other in apart.get(name, ()) if homes.get(other) == endpoint)


def endpoints_of(deployable: Deployable, limits: Limits) -> list[str]:
    """Return the endpoints that can serve a target."""
    attached = limits.attached.get(deployable.target.model)
    if attached is not None:
        return [attached]
    needed = runtime_name(deployable.serving)
    return [endpoint for endpoint, runtime in limits.endpoints.items() if runtime == needed]


def _settled(name: str, target: Desired, held: Mapping[str, Held], known: Known) -> Iterable[str]:
    """Return where a target is or was meant to be, the more certain first."""
    state = held.get(name)
    if state is not None and state.phase is not Phase.FAILED:
        yield state.endpoint
    if target.rank in (Rank.PRODUCTION, Rank.SUSPENDED) and (named := known.named.get(name)):
        answering = next((home for home in named if home not in known.lost), named[0])
        yield from {answering} - known.drained
    if name in known.earlier and known.earlier[name] not in known.lost | known.drained:
        yield known.earlier[name]


def homes_bytes(
    homes: Mapping[str, str], desired: Mapping[str, Desired], held: Mapping[str, Held], limits: Limits
) -> Counter[str]:
    """Return what each endpoint reserves for what is desired; what else it holds goes when its memory is needed."""

    def size(name: str, target: Desired) -> int:
        state = held.get(name)
        if state is None or state.phase is Phase.FAILED:
            return limits.memory_bytes(target.deployable)
        return limits.corrected(state.digest, state.memory_bytes)

    return sum_sizes((homes[name], size(name, target)) for name, target in desired.items() if name in homes)


def _copied_bytes(
    homes: Mapping[str, str], desired: Mapping[str, Desired], limits: Limits, known: Known
) -> Counter[str]:
    """Return what copies that routes name reserve of each endpoint, beside the homes of their targets."""
    return sum_sizes(
        (endpoint, limits.memory_bytes(desired[name].deployable))
        for name, endpoints in known.named.items()
        if name in desired
        for endpoint in endpoints
        if endpoint != homes.get(name)
    )


def choose_endpoint(
    name: str,
    needed: int,
    candidates: list[str],
    homes: Mapping[str, str],
    reserved: Mapping[str, int],
    *,
    limits: Limits,
    apart: Counterparts,
    copied: Mapping[str, tuple[str, ...]] | None = None,
    copied_bytes: Mapping[str, int] | None = None,
) -> tuple[str, bool]:
    """Return the best endpoint, and whether the target fits there: copies give way.

    An endpoint without a counterpart is best, then one that has only a copy of a counterpart (`copied`), then the home
    of a counterpart. Of equal ones, one is better where no copy has to give way; `copied_bytes` is what copies reserve.
    """
    taken, beside = limits.by_pool(reserved.items()), limits.by_pool((copied_bytes or {}).items())

    def cost(endpoint: str) -> tuple[bool, int, int, bool, int]:
        pool = limits.pool(endpoint)
        too_full = taken[pool] + needed > limits.pool_bytes(pool)
        copies = sum(1 for other in apart.get(name, ()) if endpoint in (copied or {}).get(other, ()))
        displaces = taken[pool] + beside[pool] + needed > limits.pool_bytes(pool)
        there = reserved.get(endpoint, 0) + (copied_bytes or {}).get(endpoint, 0)
        return too_full, _shared(name, endpoint, homes, apart), copies, displaces, there

    best = min(candidates, key=cost)  # the first of equal ones
    return best, not cost(best)[0]


def find_all_named(routes: Mapping[str, Route], addresses: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the endpoints that a route names, by the target's name, in their order.

    Args:
        routes: the routes by model.
        addresses: the name of each endpoint by the address at which gateways reach it.
    """
    named: dict[str, tuple[str, ...]] = {}
    for served in (served for route in routes.values() for served in production_of(route)):
        homes = tuple(addresses[address] for address in served.endpoints if address in addresses)
        if homes:
            named.setdefault(str(served.target), homes)
    return named


def find_counterparts(record: Servers, routes: Mapping[str, Route]) -> Counterparts:
    """Return the targets that should not share an endpoint: the serving one and its replacements.

    These are the active target of each model and its previous one or canary; the target of an order, or of a staging,
    and what will be behind it.
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


def plan_all_homes(
    record: Servers,
    desired: Mapping[str, Desired],
    held: Mapping[str, Held],
    limits: Limits,
    known: Known,
) -> dict[str, str]:
    """Return the endpoint of everything that is desired, and of what waits to be staged beside it."""
    homes = plan_homes(desired, held, limits, known)
    for lease in record.waiting:
        pair = (lease.event.data.baseline, lease.event.data.candidate)
        staged = {
            str(deployable.target): Desired(deployable, Rank.STAGING)
            for deployable in pair
            if str(deployable.target) not in homes
        }
        if staged:
            beside = plan_homes({**desired, **staged}, held, limits, known)
            homes |= {name: beside[name] for name in staged.keys() & beside.keys()}
    return homes


def find_lost(silent_s: Mapping[str, float], limits: Limits) -> frozenset[str]:
    """Return the endpoints that have been silent for so long that nothing new is placed there."""
    return frozenset(name for name, seconds in silent_s.items() if seconds >= limits.silent_limit_s)
