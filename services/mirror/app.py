"""The mirror's loop: compares registered versions with each registry, and writes the differences."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from contracts.mirrors import Mirror as MirrorRecord
from contracts.vocabulary import ModelName
from services.mirror.domain.plan import Mirrored, choose_copies, plan_aliases, plan_writes
from services.mirror.domain.schedule import Schedule
from services.mirror.metrics import MirrorMetrics
from services.mirror.ports import Changes, Registries, Registry, Unavailable, Versions
from services.mirror.settings import MirrorSettings
from shared.errors import Permanent
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.runtime.sweeper import Sweeper

SERVICE = "mirror"
_MODEL_S = 600.0
"""Seconds for one model per turn; the next turn continues."""


@dataclass(frozen=True)
class Item:
    """A model in a registry."""

    registry: str
    model: ModelName

    def __str__(self) -> str:
        return f"{self.model} in {self.registry}"


class Mirror:
    """Mirrors all models into all registries; failures are retried until they succeed, and block no other service."""

    def __init__(
        self,
        *,
        registries: Registries,
        versions: Versions,
        changes: Changes,
        metrics: MirrorMetrics,
        settings: MirrorSettings,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._registries = {registry.name: registry for registry in registries}
        self._versions, self._changes, self._metrics, self._clock = versions, changes, metrics, clock
        self._settings = settings
        waits = settings.retry_first_s, settings.retry_longest_s
        self._schedules = {name: Schedule(*waits, jitter=jitter) for name in self._registries}
        self._resync_at = clock.monotonic()
        self._sources: dict[tuple[ModelName, int], str | None] = {}
        self._declared: Mapping[str, MirrorRecord] = {}

    async def due(self) -> list[Item]:
        """Return the models to compare now: changed or failed models when due, and regularly all models."""
        now, changed = self._clock.monotonic(), await self._changes.changed()
        await self._follow_declared(now)
        if now >= self._resync_at:
            changed |= set(await self._versions.models())
            self._resync_at = now + self._settings.resync_s
        items = []
        for name, schedule in self._schedules.items():
            schedule.note_changed({model for model in changed if self._covers(name, model)}, now)
            schedule.forget({model for model in schedule.known if not self._covers(name, model)})
            items += [Item(name, model) for model in schedule.due(now)]
            self._metrics.behind.labels(name).set(schedule.behind)
        return items

    async def _follow_declared(self, now: float) -> None:
        """Schedule a comparison of all models when the declared mirrors change."""
        declared = await self._changes.declared()
        if declared == self._declared:
            return
        self._declared, self._resync_at = declared, now
        unset = sorted(declared.keys() - self._registries.keys())
        if unset:
            structlog.get_logger().warning("mirrors are declared whose registry is not set in MIRROR_…", mirrors=unset)

    def _covers(self, registry: str, model: ModelName) -> bool:
        mirror = self._declared.get(registry)
        return mirror is None or mirror.covers(model)

    async def mirror(self, item: Item) -> None:
        """Bring a model up to date in a registry.

        Raises:
            Unavailable: The registry does not answer.
            Refused: The registry refuses this model.
        """
        registry, schedule = self._registries[item.registry], self._schedules[item.registry]
        if not schedule.begin(item.model, self._clock.monotonic()):
            return
        try:
            await self._bring_up_to_date(registry, item.model)
        except BaseException as error:
            whole = isinstance(error, Unavailable)
            self._metrics.failed.labels(item.registry, "unavailable" if whole else "model").inc()
            schedule.note_failed(item.model, self._clock.monotonic(), whole=whole)
            raise
        schedule.note_done(item.model)

    async def _bring_up_to_date(self, registry: Registry, model: ModelName) -> None:
        stored = await self._versions.states(model)
        if not stored:
            return
        present = await self._present(registry, model, stored)
        broken: Permanent | None = None
        for version in plan_writes(stored, present.values()):
            try:
                history = await self._versions.history(model, version)
            except Permanent as error:  # a damaged version must not block the others
                broken = error
                continue
            present[version] = await registry.put(history, stored[version], present.get(version))
            self._metrics.written.labels(registry.name).inc()
        expected = plan_aliases(await self._changes.route(model))
        shown = {alias: present[version] for alias, version in expected.items() if version in present}
        await registry.point(model, shown)
        if broken is not None:
            raise broken

    async def _present(self, registry: Registry, model: ModelName, stored: Mapping[int, str]) -> dict[int, Mirrored]:
        """Return a registry's copies of the stored versions; entries with forged tags do not count."""
        mirrored = await registry.mirrored(model)
        for version in {
            mirrored_version.version for mirrored_version in mirrored if mirrored_version.source is not None
        } & stored.keys():
            if self._sources.get((model, version)) is None:
                self._sources[model, version] = await self._versions.source(model, version)
        return choose_copies(mirrored, {version: self._sources.get((model, version)) for version in stored})


def build(
    bus: Bus,
    *,
    registries: Registries,
    versions: Versions,
    changes: Changes,
    settings: MirrorSettings,
    clock: Clock,
) -> Mirror:
    """Return the mirror; it has no handler, because it polls the bus (`adapters.bus`)."""
    return Mirror(
        registries=registries,
        versions=versions,
        changes=changes,
        metrics=MirrorMetrics(bus.metrics),
        settings=settings,
        clock=clock,
    )


def build_sweeper(mirror: Mirror, settings: MirrorSettings) -> Sweeper[Item]:
    """Return the loop over models and registries."""
    return Sweeper("mirror", mirror.due, mirror.mirror, every_s=settings.sweep_s, item_limit_s=_MODEL_S, at_once=2)
