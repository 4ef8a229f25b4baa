"""The chosen endpoints of each target: its home, and the copies that its release's policy requests."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from contracts.routes import Route, ServedTarget
from services.server_manager.domain.declared_copies import find_parted, find_survivors, plan_copies
from services.server_manager.domain.drains import names_drained
from services.server_manager.domain.placement import Fleet, find_all_named, find_counterparts, find_lost, plan_all_homes
from services.server_manager.domain.reconcile import (
    Desired,
    Key,
    Limits,
    Memory,
    Phase,
    Rank,
    held_sizes,
    plan_desired,
    production_of,
)
from services.server_manager.domain.records import Servers, TargetCopies
from services.server_manager.executor import Executor
from services.server_manager.ports import Engines


class Placement:
    """Chooses the endpoints of each target. Nothing is stored: a new leader starts from the engines' indexes."""

    def __init__(self, engines: Engines, executor: Executor, limits: Limits) -> None:
        self._engines, self._executor, self._limits = engines, executor, limits
        self.homes: dict[str, str] = {}
        """The last chosen home of each target, by name."""
        self.intact_homes: dict[str, str] = {}
        """The homes if no endpoint were lost; a target that fits only there waits."""
        self._earlier: dict[str, str] = {}
        """Homes that the next choice keeps: of held targets, and of targets unaffected by lost endpoints."""
        self.copies: dict[str, tuple[str, ...]] = {}
        """The last chosen endpoints for each target's copies, by name."""

    def choose_homes(self, record: Servers, routes: Mapping[str, Route], down: Mapping[str, float]) -> dict[str, str]:
        """Choose the home of each desired or waiting target; `down`: seconds of silence by endpoint."""
        fleet, desired = self.fleet(record, routes, down), plan_desired(routes, record)
        self.homes = self.intact_homes = plan_all_homes(record, desired, fleet)
        if fleet.lost:
            self.intact_homes = plan_all_homes(record, desired, replace(fleet, lost=frozenset(), earlier={}))
        self._earlier = {
            name: home for name, home in self.homes.items() if name in fleet.held or self.intact_homes.get(name) == home
        }
        return self.homes

    def fleet(self, record: Servers, routes: Mapping[str, Route], down: Mapping[str, float] | None = None) -> Fleet:
        """Return the current replicas and endpoints."""
        return Fleet(
            limits=self._limits,
            held=self._executor.held(),
            copies=self._executor.copies(),
            named=self.named(routes),
            apart=find_counterparts(record, routes),
            lost=find_lost(down or {}, self._limits),
            earlier=self._earlier,
            unlisted=frozenset(self._engines.keys() - self._executor.known),
            drained=names_drained(record),
        )

    def named(self, routes: Mapping[str, Route]) -> dict[str, tuple[str, ...]]:
        """Return the endpoints in routes, by target name."""
        return find_all_named(routes, {engine.endpoint: name for name, engine in self._engines.items()})

    def ready(self, usable: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return the usable endpoints with READY, listed copies, by target name."""
        ready: dict[str, tuple[str, ...]] = {}
        for (endpoint, name), copy in self._executor.others().items():
            if copy.phase is Phase.READY and copy.listed and endpoint in usable:
                ready[name] = (*ready.get(name, ()), endpoint)
        return ready

    def failed(self) -> dict[Key, str]:
        """Return the copies that failed to load or lack memory, with the reason."""
        held, others = self._executor.held(), self._executor.others()
        memory = Memory(self._limits, held_sizes([*held.values(), *others.values()]))
        failed = {key: copy.reason for key, copy in others.items() if copy.phase is not Phase.READY and copy.reason}
        for key in ((endpoint, name) for name, endpoints in self.copies.items() for endpoint in endpoints):
            home, free = held.get(key[1]), max(0, memory.free(key[0]))
            size = self._limits.corrected(home.digest, home.memory_bytes) if home is not None else 0
            if key not in others and size > free:
                failed[key] = f"it needs {size} bytes of memory, {key[0]} has {free} free."
        return failed

    def describe(self, routes: Mapping[str, Route], usable: Collection[str]) -> tuple[TargetCopies, ...]:
        """Return requested and serving replicas of each target with copies."""
        held, ready, described = self._executor.held(), self.ready(usable), []
        copies = self._executor.copies()
        for served in _asking(routes):
            name = str(served.target)
            state = held.get(name)
            is_well = state is not None and state.phase is Phase.READY and state.endpoint in usable
            described.append(
                TargetCopies(
                    target=served.target,
                    asked=served.copies,
                    serving=is_well + len(ready.get(name, ())),
                    memory_bytes=sum(copy.memory_bytes for (_, of), copy in copies.items() if of == name),
                )
            )
        return tuple(described)

    def use_survivors(
        self, record: Servers, usable: Collection[str], down: Collection[str], routes: Mapping[str, Route]
    ) -> None:
        """Make routed copies the homes of targets if the home is lost, drained, or shared with a counterpart."""
        drained, named = names_drained(record), self.named(routes)
        ready = {
            name: tuple(endpoint for endpoint in endpoints if endpoint in named.get(name, ()))
            for name, endpoints in self.ready(usable).items()
        }
        survivors = find_survivors(self._executor.held(), ready, down=down, drained=drained)
        self._executor.use_copies(survivors, down)
        parted = find_parted(routes, self._executor.held(), ready, unusable={*down, *drained})
        self._executor.use_copies(parted, down)

    def choose_copies(
        self, record: Servers, routes: Mapping[str, Route], down: Mapping[str, float]
    ) -> dict[str, tuple[str, ...]]:
        """Choose and return the endpoints of each target's copies."""
        homes = self.choose_homes(record, routes, down)
        desired = _with_staging(plan_desired(routes, record), record, homes, down)
        self.copies = plan_copies(routes, desired, homes, self.fleet(record, routes, down))
        return self.copies

    def due(self, routes: Mapping[str, Route]) -> dict[Key, ServedTarget]:
        """Return the planned copies, and copies in routes."""
        held, everywhere, due = self._executor.held(), self.named(routes), {}
        for served in (served for route in routes.values() for served in production_of(route)):
            name = str(served.target)
            for endpoint in (*self.copies.get(name, ()), *everywhere.get(name, ())):
                if name in held and held[name].endpoint != endpoint:
                    due[endpoint, name] = served
        return due

    def forget(self) -> None:
        """Drop all choices, because another process leads."""
        self.homes, self.intact_homes, self._earlier, self.copies = {}, {}, {}, {}


def _asking(routes: Mapping[str, Route]) -> list[ServedTarget]:
    """Return the active, previous and suspended targets with more than one requested replica."""
    both = [
        served
        for route in routes.values()
        for served in (route.active, route.previous, *(entry.served for entry in route.suspended))
    ]
    return [served for served in both if served is not None and served.copies > 1]


def _with_staging(
    desired: Mapping[str, Desired], record: Servers, homes: Mapping[str, str], down: Collection[str]
) -> dict[str, Desired]:
    """Return the desired targets plus the next waiting staging on answering endpoints, which outranks copies."""
    everything = dict(desired)
    for lease in record.waiting if record.lease is None else ():
        pair = (lease.event.data.candidate, lease.event.data.baseline)
        if not any(homes.get(str(deployable.target)) in down for deployable in pair):
            for deployable in pair:
                everything.setdefault(str(deployable.target), Desired(deployable, Rank.STAGING))
            break
    return everything
