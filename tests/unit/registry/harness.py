"""A registry on fakes, as tests of its application start and restart it."""

import pytest

from contracts import facts as f
from services.registry.app import Registry
from services.registry.domain.admission import AllowedLocations
from services.registry.settings import RegistrySettings
from shared.storage.kv import Entry
from tests.kit import fakes_registry as k

PLACES = AllowedLocations(bucket="slipway")


class Harness:
    """A registry on fakes."""

    def __init__(self):
        self.out = k.World()
        self.registry = self.started()
        self.count = 0

    def started(self):
        return Registry(self.out.ports(), locations=PLACES, settings=RegistrySettings(), clock=self.out.clock)

    def restarted(self):
        """The same world, a new process."""
        self.registry = self.started()
        return self

    async def sweep(self):
        for sweeper in self.registry.sweepers:
            await sweeper.sweep()

    async def admit(self, event_id="e1", **changes):
        checkpoint = k.ready(**changes)
        await self.registry.admit(k.event(checkpoint, event_id, model=checkpoint.model))
        return self.published(f.ReleaseOpened)

    async def handle(self, release_id, *facts):
        for fact in facts:
            self.count += 1
            await self.registry.handle(k.event(fact, f"f{self.count}", correlation=release_id), release_id)

    async def deployed(self, release_id, to, cause="promote"):
        self.count += 1
        await self.registry.handle_deployment(k.event(k.changed(to, cause), f"f{self.count}", correlation=release_id))

    async def to_registered(self, release_id, variants=("bf16", "int8")):
        await self.handle(release_id, k.merged(), *(k.quantised(variant) for variant in variants))

    async def to_end(self, release_id, version):
        await self.handle(release_id, *(k.staged(v, version) for v in ("bf16", "int8")))
        await self.handle(release_id, *(k.benchmarked(v, version) for v in ("bf16", "int8")))
        active = k.target("bf16", version)
        await self.deployed(release_id, k.route(active, epoch=version))
        self.out.routes.kept[k.MODEL] = Entry(k.route(active, epoch=version), version)

    def published(self, kind):
        return self.out.publisher.of(kind)

    async def release(self, release_id):
        entry = await self.out.releases.get(f"{k.MODEL}.{release_id}")
        return entry.value if entry else None

    async def model(self):
        return await self.registry.records.model(k.MODEL)


@pytest.fixture
def harness():
    return Harness()
