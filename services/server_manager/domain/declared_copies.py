"""Placement of targets with several replicas, and the choice of a new home among copies. Pure."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from functools import partial

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import MAX_COPIES
from services.server_manager.domain.placement import Fleet, assign, endpoints_of, home_sizes, lacks
from services.server_manager.domain.reconcile import Desired, Held, Memory, Phase, held_sizes, production_of

CopyHomes = Mapping[str, tuple[str, ...]]
"""Endpoints of copies (replicas beside the home), by target name."""


def plan_copies(
    routes: Mapping[str, Route], desired: Mapping[str, Desired], homes: Mapping[str, str], fleet: Fleet
) -> dict[str, tuple[str, ...]]:
    """Return the endpoints for each target's copies; fewer than requested if memory is short.

    Active and previous version of a model never share an endpoint, and no copy takes memory that a home needs. Copies
    of active versions are placed before copies of previous ones; canaries and shadows have none. First of all, a
    previous version on its active version's endpoint gets a copy elsewhere, to become its home (`find_parted`).
    Existing copies are kept before new ones are placed, in rounds of one copy per target, so that no target takes
    another's share. A copy on a lost endpoint stays while no other endpoint has memory.

    Args:
        routes: the routes by model.
        desired: all targets to load, and the next staging waiting for memory, by name.
        homes: the endpoint of each target, by name.
        fleet: the replicas and the endpoints.
    """
    plan = _Plan(desired, homes, fleet)
    pairs = [(routes[model].active, routes[model].previous) for model in sorted(routes)]
    plan.add([(behind, active) for active, behind in pairs if plan.used_by(behind) & plan.used_by(active)], most=1)
    plan.add(pairs)
    plan.add([(behind, active) for active, behind in pairs])
    return plan.planned


class _Plan:
    """The copies chosen so far, and the memory of copies and homes."""

    def __init__(self, desired: Mapping[str, Desired], homes: Mapping[str, str], fleet: Fleet) -> None:
        self._homes, self._fleet = homes, fleet
        unneeded = (state for name, state in fleet.held.items() if name not in desired)
        self._memory = Memory(fleet.limits, home_sizes(homes, desired, fleet))
        # New copies must fit beside unneeded targets, too: some are never unloaded.
        self._full = Memory(fleet.limits, [*self._memory.taken.items(), *held_sizes(unneeded, fleet.limits)])
        self.planned: dict[str, tuple[str, ...]] = {}

    def used_by(self, served: ServedTarget | None) -> frozenset[str]:
        """Return the endpoints of a target's home and copies."""
        name = str(served.target) if served is not None else ""
        return frozenset([*self.planned.get(name, ()), *([self._homes[name]] if name in self._homes else [])])

    def add(self, pairs: Iterable[tuple[ServedTarget | None, ServedTarget | None]], most: int = MAX_COPIES) -> None:
        """Choose copies of each pair's first target on other endpoints than the second's; existing ones first."""
        asking = [
            (first, second)
            for first, second in pairs
            if first is not None and first.copies > 1 and str(first.target) in self._homes
        ]
        rounds = range(1, min(most + 1, max((first.copies for first, _ in asking), default=1)))
        for is_there, number in itertools.product((True, False), rounds):
            for served, other in asking:
                chosen = self.planned.setdefault(str(served.target), ())
                if len(chosen) >= min(number, served.copies - 1):
                    continue
                endpoint = self._find(served, self.used_by(served) | self.used_by(other), is_there=is_there)
                if endpoint is not None:
                    self._memory.taken[endpoint] += self._fleet.limits.memory_bytes(served)
                    self._full.taken[endpoint] += self._fleet.limits.memory_bytes(served)
                    self.planned[str(served.target)] = (*chosen, endpoint)

    def _find(self, served: ServedTarget, avoided: Collection[str], *, is_there: bool) -> str | None:
        """Return the best endpoint for a copy: among existing copies if `is_there`, else among others with memory."""
        name, lost = str(served.target), self._fleet.lost
        named = self._fleet.named.get(name, ())
        holding = {*named, *(endpoint for endpoint, of in self._fleet.copies if of == name)} - lost

        def refuse(endpoint: str) -> str:
            if endpoint in avoided:
                return "has it, or the version that it is apart from"
            if endpoint in self._fleet.drained or (endpoint in lost and endpoint not in named):
                return "is drained or silent"
            return "" if is_there == (endpoint in holding) else "is for another round"

        memory = partial(lacks, self._memory if is_there else self._full, self._fleet.limits.memory_bytes(served))
        sorters = [lost.__contains__, lambda endpoint: endpoint not in named, self._memory.taken.__getitem__]
        return assign(endpoints_of(served, self._fleet.limits), [refuse, memory], sorters)[0]


def find_survivors(
    held: Mapping[str, Held],
    ready: CopyHomes,
    *,
    down: Collection[str],
    drained: Collection[str],
) -> dict[str, str]:
    """Return the new home of each target with a lost or drained home, by target name.

    Args:
        held: the targets by name.
        ready: endpoints with READY copies in routes, by target name.
        down: endpoints that do not answer.
        drained: drained endpoints.
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
    """Return new homes for targets that share an endpoint with their model's active version, by target name.

    They can share one after a copy became a home. One of the two moves; the active version only if the other one has
    no copy.

    Args:
        routes: the routes by model.
        held: the targets by name.
        ready: endpoints with READY copies in routes, by target name.
        unusable: endpoints that do not answer or are drained.
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
