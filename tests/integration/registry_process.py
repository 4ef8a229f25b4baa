"""The registry as a process on a real bus and store, and what tests tell it."""

import asyncio
import contextlib
import json

import pytest

from contracts import facts as f
from contracts.envelope import Event, source_of
from contracts.facts import FACTS
from contracts.manifests import BaseManifest, FileEntry, FolderManifest
from contracts.policy import Promotion
from contracts.routes import Route
from contracts.services import EVENTS, durable_name, emitters
from contracts.vocabulary import digest_of
from services.registry.adapters.store import StoredArtifacts
from services.registry.app import SERVICE, build
from services.registry.domain.admission import AllowedLocations
from services.registry.main import connect_ports
from services.registry.settings import RegistrySettings
from shared.messaging.bus import Bus, publish_event
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed.attesters import attester, trust
from tests.kit import fakes_registry as k

READY = f.CheckpointReady.TYPE


@pytest.fixture
def store(settings):
    """The store, without versions of an earlier test: the bus of each test is new, and counts from 1."""
    store = Store(settings)
    for key in store.keys("versions/"):
        store._client.remove_object(bucket_name=store.bucket, object_name=key)
    return store


def upload(store, model, content=b"weights"):
    """Put a one-file folder where a publisher of this model may."""
    folder = FolderManifest(
        files=(FileEntry(path="adapter.safetensors", digest=digest_of(content), size_bytes=len(content)),)
    )
    name = digest_of(folder.to_bytes()).removeprefix("sha256:")
    ref, _ = store.put_manifest(f"checkpoints/{model}/manifests/folder/{name}.json", folder)
    return ref


@pytest.fixture
def base(store):
    """An imported base model."""
    folder, _ = store.put_manifest("manifests/folder/base.json", k.FOLDER)
    manifest = BaseManifest(**{**k.BASE.model_dump(), "folder": folder})
    store.put_manifest("bases/tiny/1.json", manifest)
    return f.BaseModelRef(name="tiny", revision="1", uri=store.uri("bases/tiny/1.json"), digest=folder.digest)


@pytest.fixture
def checkpoint(store, base):
    def make(model=k.MODEL, content=b"weights", **changes):
        weights = f.Weights(kind="lora", ref=upload(store, model, content))
        return k.ready(**{"model": model, "base": base, "weights": weights, **changes})

    return make


def stored_artifacts(settings):
    """Return a registry's artifacts in the real store."""
    folder = settings.state_dir
    return StoredArtifacts(Store(settings), attester(folder, SERVICE), trust(folder))


@contextlib.asynccontextmanager
async def registry(js, settings, teams=tuple, **limits):
    """Run a registry in this process."""
    bus = Bus(settings, SERVICE, SystemClock())
    await bus.connect()
    ports = connect_ports(bus, stored_artifacts(settings), teams)
    locations, every = AllowedLocations(bucket=settings.s3_bucket), RegistrySettings(sweep_s=0.2, **limits)
    started = build(bus, ports=ports, locations=locations, settings=every, clock=SystemClock())
    await bus.broker.start()
    sweeping = [asyncio.create_task(sweeper.run()) for sweeper in started.sweepers]
    try:
        yield started
    finally:
        for task in sweeping:
            task.cancel()
        await started.admissions.stop()
        await bus.broker.stop()


class Log:
    """The log of facts, read from its beginning."""

    def __init__(self, js):
        self.js = js

    async def all(self):
        last = (await self.js.stream_info(EVENTS)).state.last_seq
        messages = [await self.js.get_msg(EVENTS, sequence) for sequence in range(1, last + 1)]
        matching = []
        for message in messages:
            body = json.loads(message.data)
            matching.append(Event[FACTS[body["type"]]].model_validate(body))
        return matching

    async def of(self, kind, count=1, timeout_s=20.0):
        """Wait until at least `count` facts of a kind were said, and give all of them."""
        async with asyncio.timeout(timeout_s):
            while True:
                matching = [event for event in await self.all() if event.type == kind.TYPE]
                if len(matching) >= count:
                    return matching
                await asyncio.sleep(0.05)

    async def settled(self, kind, stream=EVENTS, timeout_s=20.0):
        """Wait until the registry has handled everything of a kind."""
        async with asyncio.timeout(timeout_s):
            while True:
                info = await self.js.consumer_info(stream, durable_name(SERVICE, kind))
                if info.num_pending == 0 and info.num_ack_pending == 0:
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
def log(js):
    return Log(js)


async def publish(js, fact, event_id, *, release="run 1", model=k.MODEL, source=None):
    event = k.event(fact, event_id, correlation=release, model=model, source=source)
    await publish_event(js, event)
    return event


def worker_of(fact):
    """Return the source of a fact as a worker publishes it, where the registry may publish it too."""
    return source_of(emitters(type(fact))[-1])


async def answer(js, release, version, *facts):
    """Publish facts as the workers would."""
    for i, fact in enumerate(facts):
        await publish(js, fact, f"{release}/{version}/{fact.TYPE}/{i}", release=release, source=worker_of(fact))


async def run_to_turn(js, release, version):
    await answer(js, release, version, k.merged(), k.quantised("bf16"), k.quantised("int8"))


async def run_to_end(js, release, version, epoch):
    both = ("bf16", "int8")
    await answer(
        js, release, version, *(k.staged(v, version) for v in both), *(k.benchmarked(v, version) for v in both)
    )
    route = k.route(k.target("bf16", version), epoch=epoch)
    bucket = Bucket(js, "routes", Route)
    entry = await bucket.get(k.MODEL)
    await (bucket.create(k.MODEL, route) if entry is None else bucket.update(k.MODEL, route, entry.revision))
    await answer(js, release, version, k.changed(route))


async def to_approval(js, log, checkpoint, **policy):
    """Run a second release of a model until it waits for approval; return its id and the digest."""
    await Bucket(js, "routes", Route).create(k.MODEL, k.route(k.target("bf16", 0), epoch=3))
    await publish(js, checkpoint(policy=k.policy(promotion=Promotion(mode="manual"), **policy)), "e1")
    release = (await log.of(f.ReleaseOpened))[0].data.release_id
    await run_to_turn(js, release, 1)
    await log.of(f.StageRequested, 2)
    both = ("bf16", "int8")
    await answer(js, release, 1, *(k.staged(v, 1) for v in both), *(k.benchmarked(v, 1) for v in both))
    asked = (await log.of(f.ApprovalRequested))[0].data
    return release, asked.manifest_digest
