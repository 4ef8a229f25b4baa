"""Promoted versions on a store with object lock, as an administrator, the registry and server-manager see them."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from contracts.facts import TrafficRequested
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import ArtifactRef, Deployable, Target
from services.registry.adapters.locks import StoredLocks
from services.registry.domain.locks import ModelLocks
from services.registry.settings import RegistrySettings
from services.registry.version_locks import VersionLocks, locks_key
from shared.errors import Permanent
from shared.messaging.records import RecordStore
from shared.provenance import lock_records
from shared.storage.blobs import Store
from shared.storage.credentials import read_credential
from shared.storage.object_lock import LockingStore
from testbed.attesters import attester, trust
from testbed.released import release
from testbed.servers import S3Server, running
from tests.kit.records import MemoryPublisher, MemoryRecords, no_wait


def server_with_root(folder: Path) -> S3Server:
    """Return an embedded store that is not started, with one more identity, root, that may do everything.

    Past governance too, and make buckets: no installation has it.
    """
    server = S3Server(folder)
    store = server.keys.store
    config = json.loads(store.server_config.read_text())
    key = read_credential(store.credential("provisioner")).model_copy(update={"name": "root", "access_key": "root-1"})
    credential = {"accessKey": key.access_key, "secretKey": key.secret_key.get_secret_value()}
    config["identities"].append({"name": "root", "credentials": [credential], "actions": ["Admin"]})
    store.server_config.write_text(json.dumps(config))
    store.credential("root").write_text(key.text())
    return server


@pytest.fixture(scope="module")
def locking_server(tmp_path_factory):
    with running(server_with_root(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture
def promoted(locking_server, tmp_path, request):
    """A version of a model of the test's own, as an administrator, the registry and server-manager see it."""
    admin = Store(locking_server.settings())
    model = f"bot-{abs(hash(request.node.name)) % 10**8}"
    released = release(admin, tmp_path, model=model)
    variant = next(each for each in released.manifest.variants if each.variant == "int8")
    target = Target(model=model, version=2, variant="int8")
    deployable = Deployable(target=target, manifest=variant.manifest, weights_bytes=1)
    return SimpleNamespace(
        admin=admin,
        registry=LockingStore(locking_server.settings("registry")),
        keys=trust(tmp_path).keys(),
        reader=Store(locking_server.settings("server-manager")),
        root=Store(locking_server.settings("root")),
        folder=tmp_path,
        released=released,
        model=model,
        served=deployable,
    )


class Clock:
    """The time of the machine, shifted."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self):
        return datetime.now(UTC) + self.shift

    def monotonic(self):
        return self.now().timestamp()


class Registry:
    """A registry's locks of one test's version, with its records in memory."""

    def __init__(self, promoted, route=None, owner="a", records=None, store=None, **settings) -> None:
        self.clock = Clock()
        self.settings = RegistrySettings(**settings)
        signer = attester(promoted.folder, "registry", self.clock)
        store = store or promoted.registry
        self.objects = StoredLocks(store, self.settings, self.clock, signer, trust(promoted.folder))
        self.publisher = MemoryPublisher()
        self.memory = records or MemoryRecords(ModelLocks)
        self.records = RecordStore("releases", self.memory, self.publisher, service="registry", sleep=no_wait)
        self.route = route
        self.locks = VersionLocks(self.objects, self.records, self, self.settings, owner=owner, clock=self.clock)

    async def get(self, _model):
        return None if self.route is None else SimpleNamespace(value=self.route)

    async def record(self, model):
        return await self.records.read(locks_key(model))

    def alerts(self):
        return [(emit.fact.TYPE.split(".")[2], emit.fact.message) for emit in self.publisher.log]


def serving(deployable):
    return ServedTarget(**dict(deployable), endpoints=("127.0.0.1:1",))


def route_of(deployable, **changes):
    return Route(**{"model": deployable.target.model, "epoch": 1, "active": serving(deployable), **changes})


def base_of(promoted):
    """Return the base model as version 0, as the registry orders it: by the manifest of its folder."""
    manifest = json.loads(promoted.admin.find(promoted.admin.key_of(promoted.released.manifest.base.uri)))
    folder = ArtifactRef.model_validate(manifest["folder"])
    return Deployable(target=Target(model=promoted.model, version=0, variant="bf16"), manifest=folder, weights_bytes=1)


def lock(promoted, **settings):
    return asyncio.run(Registry(promoted, **settings).objects.lock([promoted.served]))


def mask(store, key):
    store._client.remove_object(bucket_name=store.bucket, object_name=key)


def replace(store, key, data=b"another"):
    store._client.write(store.bucket, key, memoryview(data))


def served_blob(promoted):
    return promoted.released.variants["int8"].files[0]


def remove_version(store, key, version, *, bypass=False):
    headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
    store._client._execute("DELETE", store.bucket, key, query_params={"versionId": version}, headers=headers)


def order_of(deployable):
    return TrafficRequested(release_id="r-1", target=deployable, weight_ratio=1.0, epoch=0)


class Unlocked(LockingStore):
    """The store of a bucket without object lock."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))
        self.locked = False

    def has_lock(self):
        return self.locked


class Refusing(LockingStore):
    """A store that refuses the retention of one object."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))
        self.refused = None

    def retain(self, key, version_id, retention):
        if key == self.refused:
            raise Permanent("uri_not_allowed", "refused")
        super().retain(key, version_id, retention)


def read_locks(promoted, version=2):
    """Return the records of a version's locks, as server-manager reads them."""
    return lock_records.read_locks(promoted.reader, trust(promoted.folder).keys(), promoted.model, version)


def pin_version(store, promoted, version=2):
    """Return a store that reads a version as it was locked."""
    return lock_records.pin_version(store, trust(promoted.folder).keys(), promoted.model, version)
