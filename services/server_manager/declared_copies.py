"""Loads targets on more endpoints than their home, as their release's policy asks, and proves that they generate."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import structlog

from contracts.routes import Route, ServedTarget
from services.server_manager.domain.declared_copies import Situation, find_parted, find_survivors, plan_copies
from services.server_manager.domain.drains import names_drained
from services.server_manager.domain.moves import Copy
from services.server_manager.domain.placement import find_all_named, find_lost
from services.server_manager.domain.reconcile import (
    Desired,
    Limits,
    Phase,
    Rank,
    held_sizes,
    plan_desired,
    production_of,
)
from services.server_manager.domain.records import Servers, TargetCopies
from services.server_manager.executor import Executor
from services.server_manager.ports import Artifacts, Engines, LeaseLost
from services.server_manager.target_state import SUSPICIONS, as_ours
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

LOAD_PROBE_S, PROBE_S = 120.0, 20.0
"""How long a copy may take to its first token after it was loaded, and later."""
Key = tuple[str, str]
"""An endpoint and the name of a target."""


@dataclass
class CopyState:
    """A copy: its phase (None: it is not loaded), since when (monotonic seconds), and how often it failed."""

    phase: Phase | None
    since: float
    failures: int = 0
    suspicions: int = 0
    reason: str = ""
    probed: float | None = None
    memory_bytes: int = 0
    work: asyncio.Task[None] | None = field(default=None, repr=False)


class DeclaredCopies:
    """The copies of one fleet. Nothing of them is stored: who takes over finds them in the engines' indexes."""

    def __init__(
        self,
        engines: Engines,
        artifacts: Artifacts,
        clock: Clock,
        limits: Limits,
        *,
        executor: Executor,
        wake: Callable[[], None],
    ) -> None:
        self._engines, self._artifacts, self._clock, self._limits = engines, artifacts, clock, limits
        self._executor, self._wake = executor, wake
        self._states: dict[Key, CopyState] = {}
        self._log = structlog.get_logger()
        self.planned: dict[str, tuple[str, ...]] = {}
        """The endpoints on which each target is to be loaded beside its home, as they were chosen last."""

    @property
    def copies(self) -> list[Copy]:
        """Return what copies take that are being loaded, or were and are not listed yet."""
        return [
            Copy(endpoint, name, state.memory_bytes)
            for (endpoint, name), state in self._states.items()
            if state.phase in {Phase.LOADING, Phase.READY} and state.memory_bytes
        ]

    def ready(self, usable: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return the endpoints on which copies generate and that have listed them, by the target's name."""
        listed = {(copy.endpoint, copy.name) for copy in self._executor.copies()}
        ready: dict[str, tuple[str, ...]] = {}
        for (endpoint, name), state in self._states.items():
            if state.phase is Phase.READY and endpoint in usable and (endpoint, name) in listed:
                ready[name] = (*ready.get(name, ()), endpoint)
        return ready

    def arriving(self, routes: Mapping[str, Route]) -> dict[str, tuple[str, ...]]:
        """Return the endpoints that have copies which are to be there, or are loading them, by the target's name.

        A process that has chosen none yet, because it began a moment ago, takes all that are listed.
        """
        arriving: dict[str, tuple[str, ...]] = {}
        listed = {(copy.endpoint, copy.name) for copy in self._executor.copies()}
        for served in _asking(routes):
            name = str(served.target)
            for endpoint in self.planned.get(name, self._engines):
                state = self._states.get((endpoint, name))
                phase = state.phase if state is not None else None
                is_there = (endpoint, name) in listed or phase in {Phase.LOADING, Phase.READY}
                if is_there and phase is not Phase.FAILED:
                    arriving[name] = (*arriving.get(name, ()), endpoint)
        return arriving

    def phases(self, endpoint: str) -> dict[str, Phase]:
        """Return the copies of an endpoint that are loaded or on their way, by the target's name."""
        return {
            name: state.phase
            for (where, name), state in self._states.items()
            if where == endpoint and state.phase is not None
        }

    def failed(self) -> dict[Key, str]:
        """Return the copies that could not be loaded, or cannot yet, with the reason."""
        missing = {None, Phase.FAILED, Phase.LOADING}
        return {key: state.reason for key, state in self._states.items() if state.phase in missing and state.reason}

    def describe(self, routes: Mapping[str, Route], usable: Collection[str]) -> tuple[TargetCopies, ...]:
        """Return the targets that ask for copies, and on how many endpoints they generate."""
        held, ready, described = self._executor.held(), self.ready(usable), []
        everything = self._executor.copies()
        for served in _asking(routes):
            name = str(served.target)
            state = held.get(name)
            is_well = state is not None and state.phase is Phase.READY and state.endpoint in usable
            described.append(
                TargetCopies(
                    target=served.target,
                    asked=served.copies,
                    serving=is_well + len(ready.get(name, ())),
                    memory_bytes=sum(copy.memory_bytes for copy in everything if copy.name == name),
                )
            )
        return tuple(described)

    def use_survivors(
        self, record: Servers, usable: Collection[str], down: Collection[str], routes: Mapping[str, Route]
    ) -> None:
        """Make copies that routes name the homes of targets whose own is lost, drained, or their counterpart's."""
        drained, named = names_drained(record), self._named(routes)
        ready = {
            name: tuple(endpoint for endpoint in endpoints if endpoint in named.get(name, ()))
            for name, endpoints in self.ready(usable).items()
        }
        self._use(find_survivors(self._executor.held(), ready, down=down, drained=drained), down)
        self._use(find_parted(routes, self._executor.held(), ready, unusable={*down, *drained}), down)

    def _use(self, survivors: Mapping[str, str], down: Collection[str]) -> None:
        """Make copies the homes of targets, by their names, and the former homes their copies."""
        held, now = self._executor.held(), self._clock.monotonic()
        self._executor.use_copies(survivors)
        after = self._executor.held()
        for name in (name for name, endpoint in survivors.items() if after[name].endpoint == endpoint):
            before = held[name]
            is_well = before.phase is Phase.READY and before.endpoint not in down
            phase = Phase.READY if is_well else Phase.UNPROVEN
            self._states[before.endpoint, name] = CopyState(phase, now, probed=now if is_well else None)
            if (used := self._states.pop((survivors[name], name), None)) is not None and used.work is not None:
                used.work.cancel()  # a probe of what is the home now

    def _named(self, routes: Mapping[str, Route]) -> dict[str, tuple[str, ...]]:
        """Return the endpoints that routes name, by the target's name."""
        return find_all_named(routes, {engine.endpoint: name for name, engine in self._engines.items()})

    def choose(
        self, record: Servers, routes: Mapping[str, Route], homes: Mapping[str, str], down: Mapping[str, float]
    ) -> dict[str, tuple[str, ...]]:
        """Choose where each target is to be loaded beside its home, and return it."""
        situation = Situation(
            desired=_with_staging(plan_desired(routes, record), record, homes, down),
            homes=homes,
            held=self._executor.held(),
            copies=self._executor.copies(),
            named=self._named(routes),
            lost=find_lost(down, self._limits),
            drained=names_drained(record),
        )
        self.planned = plan_copies(routes, situation, self._limits)
        return self.planned

    def follow(self, routes: Mapping[str, Route], usable: Collection[str], others: Collection[Copy]) -> None:
        """Begin what is due: loads where memory is free, probes; forget what no route asks for.

        Args:
            routes: the routes by model.
            usable: the endpoints that answer and have listed what they hold.
            others: everything that endpoints hold beside the homes.
        """
        due = self._due(routes)
        for key in self._states.keys() - due.keys():
            if (work := self._states.pop(key).work) is not None:
                work.cancel()
        taken = self._taken(others)
        known = {(copy.endpoint, copy.name) for copy in [*self._executor.copies(), *self.copies]}
        transferred = {(copy.endpoint, copy.name) for copy in others} - known  # a drain is loading it
        for (endpoint, name), served in due.items():
            if endpoint in usable and (endpoint, name) not in transferred:
                is_planned = endpoint in self.planned.get(name, ())
                self._advance(endpoint, name, served, taken if is_planned else None)

    def _due(self, routes: Mapping[str, Route]) -> dict[Key, ServedTarget]:
        """Return the copies that are to be there, and those that a route names beside the home."""
        held, names = self._executor.held(), {engine.endpoint: name for name, engine in self._engines.items()}
        due = {}
        for served in (served for route in routes.values() for served in production_of(route)):
            name = str(served.target)
            named = [names[address] for address in served.endpoints if address in names]
            for endpoint in (*self.planned.get(name, ()), *named):
                if name in held and held[name].endpoint != endpoint:
                    due[endpoint, name] = served
        return due

    def _taken(self, others: Collection[Copy]) -> Counter[str]:
        return self._limits.by_pool([*held_sizes(self._executor.held().values()), *(copy.size for copy in others)])

    def _advance(self, endpoint: str, name: str, served: ServedTarget, taken: Counter[str] | None) -> None:
        """Begin what is due of one copy; `taken` is what each memory has taken, None where it must not be loaded."""
        now, key = self._clock.monotonic(), (endpoint, name)
        copy = next((listed for listed in self._executor.copies() if (listed.endpoint, listed.name) == key), None)
        state = self._states.setdefault(key, CopyState(Phase.UNPROVEN if copy else None, now))
        if state.work is not None:
            return
        if copy is None and state.phase in {Phase.READY, Phase.UNPROVEN, Phase.DEAD}:
            if not self._executor.has_lost(Copy(endpoint, name, 0), state.since):
                return  # it was loaded a moment ago
            self._enter(state, None)
        is_other = copy is not None and copy.digest != served.manifest.digest
        if copy is not None and not is_other and state.phase in {None, Phase.FAILED}:
            self._enter(state, Phase.UNPROVEN)  # the answer to its load was lost, or a drain loaded it
        if state.phase in {None, Phase.FAILED, Phase.DEAD} or is_other:
            if taken is not None and self._may_load(state, endpoint, served, taken, is_held=copy is not None):
                state.memory_bytes = self._limits.reserved_bytes(served)
                self._enter(state, Phase.LOADING)
                self._begin(key, state, self._load(endpoint, served, state, heal=copy is not None))
        elif state.phase is Phase.UNPROVEN or now - (state.probed or 0.0) >= self._limits.probe_interval_s:
            self._begin(key, state, self._probe(endpoint, name, state))

    def _may_load(
        self, state: CopyState, endpoint: str, served: ServedTarget, taken: Counter[str], *, is_held: bool
    ) -> bool:
        """Return whether a copy may be loaded now, and count its memory."""
        if self._clock.monotonic() - state.since < self._limits.retry_after_s(state.failures):
            return False
        if is_held:
            return True
        pool, size = self._limits.pool(endpoint), self._limits.memory_bytes(served)
        if taken[pool] + size > self._limits.pool_bytes(pool):
            free = max(0, self._limits.pool_bytes(pool) - taken[pool])
            state.reason = f"it needs {size} bytes of memory, {endpoint} has {free} free."
            return False
        taken[pool] += size
        return True

    def _enter(self, state: CopyState, phase: Phase | None) -> None:
        state.phase, state.since = phase, self._clock.monotonic()

    def _begin(self, key: Key, state: CopyState, work: "asyncio._CoroutineLike[None]") -> None:
        task = state.work = asyncio.create_task(work, name=f"copy {key[1]} on {key[0]}")

        def ended(done: "asyncio.Task[None]") -> None:
            if state.work is done:
                state.work = None
            if not done.cancelled() and (error := done.exception()) is not None:
                self._log.error("a copy failed unexpectedly", target=key[1], endpoint=key[0], exc_info=error)
            self._wake()

        task.add_done_callback(ended)

    async def _load(self, endpoint: str, served: ServedTarget, state: CopyState, *, heal: bool) -> None:
        name, engine, permit = str(served.target), self._engines[endpoint], self._executor.permit
        log = self._log.bind(target=name, endpoint=endpoint)
        log.info("loading a copy", heal=heal)
        try:
            folder = await self._artifacts.materialise(served)
            if heal:
                await engine.unload(name, wait=False, permit=permit)
            await engine.load(
                name,
                folder,
                digest=served.manifest.digest,
                memory_bytes=state.memory_bytes,
                serving=served.serving,
                permit=permit,
            )
            await engine.probe(name, LOAD_PROBE_S)
        except LeaseLost as error:
            log.warning("a copy was not loaded: the lease is not confirmed", why=str(error))
            self._enter(state, None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the target is served elsewhere, and tried again
            await self._note_failure(endpoint, name, state, as_ours(error))
        else:
            state.failures, state.suspicions, state.reason, state.probed = 0, 0, "", self._clock.monotonic()
            self._enter(state, Phase.READY)
            log.info("a copy is ready")

    async def _note_failure(self, endpoint: str, name: str, state: CopyState, error: SlipwayError) -> None:
        self._log.warning("a copy was not loaded", target=name, endpoint=endpoint, code=error.code, reason=error.reason)
        state.reason = error.reason
        if error.code == "endpoint_unreachable":
            self._enter(state, None)
            return
        state.failures += 1
        self._enter(state, Phase.FAILED)
        try:
            await self._engines[endpoint].unload(name, permit=self._executor.permit)
        except (LeaseLost, SlipwayError) as also:
            self._log.warning("what failed to load could not be unloaded", target=name, why=str(also))

    async def _probe(self, endpoint: str, name: str, state: CopyState) -> None:
        try:
            await self._engines[endpoint].probe(name, PROBE_S)
        except Exception as error:  # noqa: BLE001 - every failure of a probe is a state of the copy
            known = as_ours(error)
            if known.code != "endpoint_unreachable":
                state.suspicions, state.reason = state.suspicions + 1, known.reason
                self._log.warning("the probe of a copy failed", target=name, endpoint=endpoint, code=known.code)
                if known.code == "engine_dead" or state.suspicions >= SUSPICIONS:
                    self._enter(state, Phase.DEAD)
        else:
            state.suspicions, state.reason = 0, ""
            if state.phase is not Phase.READY:
                self._enter(state, Phase.READY)
        state.probed = self._clock.monotonic()

    async def stop(self) -> None:
        """Cancel what is being done and forget everything: another process leads."""
        tasks = [state.work for state in self._states.values() if state.work is not None]
        self._states, self.planned = {}, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _asking(routes: Mapping[str, Route]) -> list[ServedTarget]:
    """Return the targets that ask for copies: active, previous and suspended ones."""
    both = [
        served
        for route in routes.values()
        for served in (route.active, route.previous, *(entry.served for entry in route.suspended))
    ]
    return [served for served in both if served is not None and served.copies > 1]


def _with_staging(
    desired: Mapping[str, Desired], record: Servers, homes: Mapping[str, str], down: Collection[str]
) -> dict[str, Desired]:
    """Return what is desired, and the staging that is next: copies make way for it, where its endpoints answer."""
    everything = dict(desired)
    for lease in record.waiting if record.lease is None else ():
        pair = (lease.event.data.candidate, lease.event.data.baseline)
        if not any(homes.get(str(deployable.target)) in down for deployable in pair):
            for deployable in pair:
                everything.setdefault(str(deployable.target), Desired(deployable, Rank.STAGING))
            break
    return everything
