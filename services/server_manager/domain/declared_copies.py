"""Placement of targets that are loaded on several endpoints, and the order in which they are used. Pure."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from functools import partial

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import MAX_COPIES
from services.server_manager.domain.placement import Fleet, assign, endpoints_of, home_sizes, lacks
from services.server_manager.domain.reconcile import Desired, Held, Memory, Phase, held_sizes, production_of

CopyHomes = Mapping[str, tuple[str, ...]]
"""The endpoints on which a target is to be loaded beside its home, by the target's name."""


def plan_copies(
    routes: Mapping[str, Route], desired: Mapping[str, Desired], homes: Mapping[str, str], fleet: Fleet
) -> dict[str, tuple[str, ...]]:
    """Return the endpoints for each target's copies, besides its home; fewer than requested if none has memory left.

    A copy of the active version is never where the previous one is, nor the other way round, and none takes memory that
    a home needs: so copies of active versions go first, and those of a previous one only where no active version is.
    Before both, a previous version whose home is that of the active one has one copy elsewhere, which becomes its home
    (`find_parted`). A canary and a shadow have none. What serves stays, then what is held, before any target has a new
    copy; and all have one more before one has two more, so that a target that asks for many takes none of another's.
    A lost endpoint keeps its copy while no other one has memory for it.

    Args:
        routes: the routes by model.
        desired: all targets to be loaded, and the staging that waits for memory.
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
    """The copies that are chosen so far, and the memory of copies and homes."""

    def __init__(self, desired: Mapping[str, Desired], homes: Mapping[str, str], fleet: Fleet) -> None:
        self._homes, self._fleet = homes, fleet
        unneeded = (state for name, state in fleet.held.items() if name not in desired)
        self._memory = Memory(fleet.limits, home_sizes(homes, desired, fleet))
        # A new copy fits only beside what nothing needs and is not unloaded yet: some is never unloaded.
        self._full = Memory(fleet.limits, [*self._memory.taken.items(), *held_sizes(unneeded, fleet.limits)])
        self.planned: dict[str, tuple[str, ...]] = {}

    def used_by(self, served: ServedTarget | None) -> frozenset[str]:
        """Return the endpoints of a target's home and copies."""
        name = str(served.target) if served is not None else ""
        return frozenset([*self.planned.get(name, ()), *([self._homes[name]] if name in self._homes else [])])

    def add(self, pairs: Iterable[tuple[ServedTarget | None, ServedTarget | None]], most: int = MAX_COPIES) -> None:
        """Choose copies of the first target of each pair, apart from the second: existing copies, then new ones."""
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
        """Return the best endpoint with memory for a copy: of those that have it and answer, or of the others."""
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
    """Return the endpoint that becomes the home of each target whose home is lost or drained, by target name.

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
    """Return the endpoint that becomes the home of each target that shares its home with its counterpart, by name.

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
