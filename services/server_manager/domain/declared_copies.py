"""Targets that are to be loaded on more than one endpoint: on which ones, and which of them is used first. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from contracts.routes import Route, ServedTarget
from services.server_manager.domain.moves import Copy
from services.server_manager.domain.placement import endpoints_of
from services.server_manager.domain.reconcile import Desired, Held, Limits, Phase, production_of

CopyHomes = Mapping[str, tuple[str, ...]]
"""The endpoints on which a target is to be loaded beside its home, by the target's name."""


@dataclass(frozen=True)
class Situation:
    """What is known of a fleet when copies are placed.

    Attributes:
        desired: everything that should be loaded.
        homes: the endpoint of each target, by name.
        held: every target as it is.
        copies: what endpoints hold beside the homes.
        named: the endpoints that a route names, by the target's name.
        lost: endpoints that have been silent for long.
        drained: endpoints that take nothing new.
    """

    desired: Mapping[str, Desired]
    homes: Mapping[str, str]
    held: Mapping[str, Held] = field(default_factory=dict)
    copies: Collection[Copy] = ()
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()


def plan_copies(routes: Mapping[str, Route], situation: Situation, limits: Limits) -> dict[str, tuple[str, ...]]:
    """Return where each target with copies is to be loaded beside its home; fewer than it asks for where none is left.

    A copy is never where the version behind or before it is, and never takes memory that a home needs: so copies of an
    active version go first, and those of a previous one only where no active version is. Before both, a version behind
    whose home is that of the active one has one copy elsewhere, which becomes its home (`find_parted`). A canary and a
    shadow have none. Of the endpoints that are left the one that serves it already is taken first, then the one that
    holds it, then the one that reserves least. A lost endpoint keeps its copy while no other one has memory for it.
    """
    reserved = _reserved(situation, limits)
    planned: dict[str, tuple[str, ...]] = {}
    for served, avoided, most in _in_order(routes, situation.homes, planned):
        name, size = str(served.target), limits.memory_bytes(served)
        home = situation.homes.get(name)
        if home is None or name in planned:
            continue
        candidates = [
            endpoint
            for endpoint in endpoints_of(served, limits)
            if endpoint != home
            and endpoint not in situation.drained | avoided
            and (endpoint not in situation.lost or endpoint in situation.named.get(name, ()))
        ]
        chosen: list[str] = []
        for endpoint in _preferred(name, candidates, reserved, situation):
            if len(chosen) >= most:
                break
            if _taken(reserved, limits)[limits.pool(endpoint)] + size <= limits.pool_bytes(limits.pool(endpoint)):
                reserved[endpoint] += size
                chosen.append(endpoint)
        planned[name] = tuple(chosen)
    return planned


def _in_order(
    routes: Mapping[str, Route], homes: Mapping[str, str], planned: CopyHomes
) -> Iterator[tuple[ServedTarget, frozenset[str], int]]:
    """Yield the targets that ask for copies, those that matter more first: with the endpoints to avoid, how many."""

    def used_by(served: ServedTarget | None) -> frozenset[str]:
        name = str(served.target) if served is not None else ""
        return frozenset([*([homes[name]] if name in homes else []), *planned.get(name, ())])

    ordered = [routes[model] for model in sorted(routes)]
    for active, behind in ((route.active, route.previous) for route in ordered):
        if behind is not None and behind.copies > 1 and used_by(behind) & used_by(active):
            yield behind, used_by(active), 1
    for active, behind in ((route.active, route.previous) for route in ordered):
        if active is not None and active.copies > 1:
            yield active, used_by(behind), active.copies - 1
    for active, behind in ((route.active, route.previous) for route in ordered):
        if behind is not None and behind.copies > 1:
            yield behind, used_by(active), behind.copies - 1


def _reserved(situation: Situation, limits: Limits) -> Counter[str]:
    """Return what homes reserve of each endpoint."""
    reserved = Counter[str]()
    for name, target in situation.desired.items():
        if name in situation.homes:
            state = situation.held.get(name)
            is_loaded = state is not None and state.phase is not Phase.FAILED
            held_bytes = limits.corrected(state.digest, state.memory_bytes) if state and is_loaded else None
            size = limits.memory_bytes(target.deployable) if held_bytes is None else held_bytes
            reserved[situation.homes[name]] += size
    return reserved


def _preferred(name: str, candidates: list[str], reserved: Mapping[str, int], situation: Situation) -> list[str]:
    holding = {copy.endpoint for copy in situation.copies if copy.name == name}

    def cost(endpoint: str) -> tuple[bool, bool, bool, int]:
        is_named = endpoint in situation.named.get(name, ())
        return endpoint in situation.lost, not is_named, endpoint not in holding, reserved.get(endpoint, 0)

    return sorted(candidates, key=cost)


def _taken(reserved: Mapping[str, int], limits: Limits) -> Counter[str]:
    taken = Counter[str]()
    for endpoint, size in reserved.items():
        taken[limits.pool(endpoint)] += size
    return taken


def find_survivors(
    held: Mapping[str, Held],
    ready: CopyHomes,
    *,
    down: Collection[str],
    drained: Collection[str],
) -> dict[str, str]:
    """Return the endpoints of copies that are to be homes, by the target's name: their homes are lost to production.

    Args:
        held: every target as it is.
        ready: the endpoints on which copies generate that their routes name, beside the homes.
        down: endpoints that do not answer.
        drained: endpoints that are to be empty.
    """
    survivors = {}
    for name, state in held.items():
        others = [endpoint for endpoint in ready.get(name, ()) if endpoint != state.endpoint and endpoint not in down]
        kept = [endpoint for endpoint in others if endpoint not in drained]
        is_lost = state.endpoint in down or state.phase in {Phase.DEAD, Phase.FAILED}
        if is_lost and others:
            survivors[name] = (kept or others)[0]
        elif state.endpoint in drained and state.phase is Phase.READY and kept:
            survivors[name] = kept[0]
    return survivors


def find_parted(
    routes: Mapping[str, Route], held: Mapping[str, Held], ready: CopyHomes, *, unusable: Collection[str]
) -> dict[str, str]:
    """Return the endpoints of copies that are to be homes, by the target's name: their homes are a counterpart's, too.

    Two versions of which one replaces the other come together where a copy became a home. Only one of the two is named,
    the active one only where the other has no copy.

    Args:
        routes: the routes by model.
        held: every target as it is.
        ready: the endpoints on which copies generate that their routes name, beside the homes.
        unusable: endpoints that do not answer, or are to be empty.
    """
    homes = {name: state.endpoint for name, state in held.items()}
    parted: dict[str, str] = {}
    for route in routes.values():
        names = [str(served.target) for served in production_of(route)]
        for behind in names[1:]:
            if route.active is None or homes.get(behind) is None or homes[behind] != homes.get(names[0]):
                continue
            for name, others in ((behind, names[:1]), (names[0], names[1:])):
                taken = {homes.get(other) for other in others} | set(unusable)
                free = [endpoint for endpoint in ready.get(name, ()) if endpoint not in taken]
                if held[name].phase is Phase.READY and free:
                    homes[name] = parted[name] = free[0]
                    break
    return parted
