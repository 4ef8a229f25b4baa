"""A registry on fakes, as tests of its application start and restart it."""

import asyncio

import pytest

from contracts import facts as f
from services.registry.app import Registry
from services.registry.domain.admission import AllowedLocations
from services.registry.domain.announcements import Announcement
from services.registry.ports import announcements_key
from services.registry.settings import RegistrySettings
from shared.storage.kv import Entry
from tests.kit import fakes_registry as k

PLACES = AllowedLocations(bucket="slipway")


class Harness:
    """A registry on fakes."""

    def __init__(self, **limits):
        self.out = k.World()
        self.settings = RegistrySettings(**limits)
        self.registry = self.started()
        self.count = 0

    def started(self):
        return Registry(self.out.ports(), locations=PLACES, settings=self.settings, clock=self.out.clock)

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


OTHER = "other-bot"


class Stuck:
    """Artifacts of which some models' cannot be verified, for a while or ever, or never answer at all."""

    def __init__(self, inner):
        self.inner = inner
        self.failing: dict[str, Exception | None] = {}
        self.asked: list[str] = []

    async def verify(self, ref):
        model = ref.uri.split("/")[4]
        self.asked.append(model)
        if model in self.failing:
            error = self.failing[model]
            if error is None:
                await asyncio.Event().wait()
            raise error
        await self.inner.verify(ref)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Announcing(Harness):
    """A registry on fakes, and the stream before it."""

    def __init__(self, **limits):
        super().__init__(**{"admission_try_s": 5.0, "admission_wait_s": 5.0, **limits})
        self.artifacts = self.out.artifacts = Stuck(self.out.artifacts)
        self.restarted()
        self.sequence = 0

    def store(self, model=k.MODEL, event_id=None, **changes):
        """Put an announcement into the stream, and give it as the handler gets it."""
        self.sequence += 1
        key = f"checkpoints/{model}/manifests/folder/a.json"
        self.out.artifacts.present[k.ref(key).uri] = key.encode()
        ready = k.ready(**{"model": model, "weights": f.Weights(kind="lora", ref=k.ref(key)), **changes})
        event = k.event(ready, event_id or f"e{self.sequence}", model=model)
        self.out.inbox.stored[self.sequence] = event
        return event, Announcement(
            sequence=self.sequence,
            event_id=event.id,
            correlation_id=event.correlationid,
            environment="production",
            stored_at=self.out.clock.now(),
        )

    async def announce(self, model=k.MODEL, **changes):
        await self.announced(self.store(model, **changes))

    async def announced(self, stored):
        event, announcement = stored
        await self.registry.admissions.receive(event.subject, announcement)

    async def sweep(self):
        await self.registry.sweepers[0].sweep()
        await asyncio.gather(*self.registry.admissions._running.values())

    def opened(self, model):
        emits = self.out.publisher.published
        return [emit.fact.version for emit in emits if isinstance(emit.fact, f.ReleaseOpened) and emit.model == model]

    def rejected(self):
        return [
            (emit.model, emit.fact.code)
            for emit in self.out.publisher.published
            if isinstance(emit.fact, f.CheckpointRejected)
        ]

    async def record(self, model=k.MODEL):
        return (await self.out.announcements.get(announcements_key(model))).value
