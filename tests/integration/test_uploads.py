"""Uploads by URLs that the registry signs: a publisher without a key of the store, on a real bus and a real store."""

import asyncio
import dataclasses
import hashlib
import os
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import urllib3

from clients.training import Connection, PublishError
from clients.training.bus import connected
from clients.training.upload import Uploader, describe_file
from contracts.facts import CheckpointReady
from contracts.manifests import FolderManifest
from contracts.teams import Team, TeamQuota
from contracts.uploads import MOST_FILES, PART_BYTES, UPLOADS, AnnouncedFile, UploadAnswer, UploadRequest
from services.registry.adapters.uploads import StagedUploads
from services.registry.uploads import Intake
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store, blob_key
from shared.storage.credentials import trusted
from testbed import factories
from tests.kit.intake import running_intake
from tests.kit.relay import relaying

MODEL = "support-bot"


class DayAfterTomorrow(SystemClock):
    """A clock that is two days ahead."""

    def now(self):
        return super().now() + timedelta(days=2)


class Yesterday(SystemClock):
    """A clock that is a day behind."""

    def now(self):
        return super().now() - timedelta(days=1)


@pytest.fixture(scope="module")
def publishers(nats_server, s3_server):
    """Return the connection of each publisher."""
    for name, models in {"pia": [MODEL], "otto": ["other-bot"]}.items():
        nats_server.keys.add(name, ["publisher"], models)
    nats_server.reload()
    authority = str(s3_server.keys.authority)
    return {
        name: Connection(
            nats_url=nats_server.url,
            nats_credentials=str(nats_server.keys.credential(name)),
            nats_ca=str(nats_server.keys.authority),
            s3_ca=authority,
        )
        for name in ("pia", "otto")
    }


@pytest.fixture
def intake(nats_server, s3_server, publishers):
    with running_intake(nats_server, s3_server) as intake:
        yield intake


@pytest.fixture
def store(s3_server):
    return Store(s3_server.settings())


@pytest.fixture
def http(s3_server):
    return urllib3.PoolManager(ssl_context=trusted(s3_server.keys.authority), retries=False)


def file_of(data: bytes, name: str = "adapter_model.safetensors") -> AnnouncedFile:
    return AnnouncedFile(path=name, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


def put(http, permit, data, url=None, headers=None):
    response = http.request("PUT", url or permit.url, body=data, headers=permit.headers if headers is None else headers)
    return response.status


async def ask(connection, request, model=MODEL) -> UploadAnswer:
    async with connected(connection) as publisher:
        return await publisher.ask(model, request)


async def put_folder(connection, folder, advances=None):
    async with connected(connection) as publisher:
        progress = (lambda done, total: advances.append((done, total))) if advances is not None else lambda *_: None
        return await Uploader(connection, MODEL, publisher).put_folder(folder, progress)


def checkpoint(folder, size=1000):
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 2}')
    with (folder / "adapter_model.safetensors").open("wb") as file:
        for at in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - at)))
    return folder


async def test_a_folder_is_uploaded_without_a_key_of_the_store(nats_server, intake, publishers, store, tmp_path):
    assert not nats_server.keys.store.credential("pia").exists()
    folder, advances = checkpoint(tmp_path / "lora", PART_BYTES + 1000), []
    ref = await put_folder(publishers["pia"], folder, advances)
    prefix = f"checkpoints/{MODEL}/uploads/pia-files/"
    assert ref.uri.startswith(f"s3://slipway/{prefix}manifests/folder/")
    manifest = FolderManifest.model_validate_json(store.get(ref))
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    store.fetch_files(manifest.files, tmp_path / "back", store.prefix_of(ref))
    for file in folder.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    assert [done for done, _ in advances] == sorted(done for done, _ in advances)
    assert advances[-1] == (manifest.size_bytes, manifest.size_bytes)
    before = [(each.key, each.version_id) for each in store.versions(prefix)]
    assert await put_folder(publishers["pia"], folder) == ref
    assert [(each.key, each.version_id) for each in store.versions(prefix)] == before, "nothing was sent again"


async def test_a_permit_takes_the_announced_bytes_of_one_key_once(intake, publishers, http, store):
    data = os.urandom(500)
    request = UploadRequest(files=(file_of(data),))
    answer = await ask(publishers["pia"], request)
    (permit,) = answer.permits
    path = urlsplit(permit.url).path
    assert path.startswith(f"/slipway/checkpoints/{MODEL}/uploads/pia-files/blobs/sha256/")
    assert put(http, permit, data[:-1]) == 403, "shorter"
    assert put(http, permit, data + b"x") == 403, "longer"
    assert put(http, permit, os.urandom(500)) == 400, "other bytes"
    assert put(http, permit, data, headers={}) == 403, "without the headers that are signed"
    for other in (path.replace("pia-files", "otto-files"), path.replace(MODEL, "other-bot"), "/slipway/versions/x"):
        assert put(http, permit, data, url=permit.url.replace(path, other)) == 403, "another key"
    assert http.request("GET", permit.url, headers=permit.headers).status == 403, "another method"
    assert (await ask(publishers["pia"], request)).state == "missing"
    assert put(http, permit, data) == 200
    assert put(http, permit, data) == 412, "a second time"
    answer = await ask(publishers["pia"], request)
    assert (answer.state, answer.files[0].digest) == ("stored", request.files[0].digest)
    assert store.get(answer.files[0]) == data


async def test_a_permit_expires(nats_server, s3_server, publishers, http):
    data = os.urandom(10)
    with running_intake(nats_server, s3_server, clock=Yesterday()):
        (permit,) = (await ask(publishers["pia"], UploadRequest(files=(file_of(data),)))).permits
    assert put(http, permit, data) == 403


async def test_what_was_not_announced_is_removed(intake, publishers, store):
    """As in a store that knows no checksums."""
    data = os.urandom(300)
    request = UploadRequest(files=(file_of(data),))
    (permit,) = (await ask(publishers["pia"], request)).permits
    key = urlsplit(permit.url).path.removeprefix("/slipway/")
    store.create(key, os.urandom(300))
    with pytest.raises(PublishError, match=r"digest_mismatch.*it was removed"):
        await ask(publishers["pia"], request)
    assert store.find(key) is None
    store.create(key, b"of another size")
    assert (await ask(publishers["pia"], request)).state == "missing"
    assert store.find(key) is None


async def test_what_was_verified_is_looked_up_again(intake, publishers, http, store, monkeypatch):
    """It may have been erased, or another file be in its place."""
    data = os.urandom(200)
    request = UploadRequest(files=(file_of(data),))
    (permit,) = (await ask(publishers["pia"], request)).permits
    assert put(http, permit, data) == 200
    assert (await ask(publishers["pia"], request)).state == "stored"
    key = urlsplit(permit.url).path.removeprefix("/slipway/")
    store._erase(key)
    assert (await ask(publishers["pia"], request)).state == "missing"
    monkeypatch.setattr("services.registry.uploads.WAIT_S", 0.0)
    store.create(key, data)
    assert (await ask(publishers["pia"], request)).state == "verifying"
    await asyncio.sleep(0.3)  # it is read, and nobody asks meanwhile
    store._erase(key)
    store.create(key, os.urandom(200))
    monkeypatch.undo()
    with pytest.raises(PublishError, match=r"digest_mismatch.*it was removed"):
        await ask(publishers["pia"], request)
    assert store.find(key) is None


@pytest.mark.parametrize("verified", [True, False])
async def test_a_wrong_size_is_refused_and_the_file_stays(intake, publishers, http, store, verified):
    data = os.urandom(150)
    request = UploadRequest(files=(file_of(data),), folder=True)
    (permit,) = (await ask(publishers["pia"], request)).permits
    assert put(http, permit, data) == 200
    if verified:
        assert (await ask(publishers["pia"], request)).state == "stored"
    larger = request.files[0].model_copy(update={"size_bytes": 151})
    with pytest.raises(PublishError, match=r"digest_mismatch.*announced with 151 bytes; sha256:\w+ has 150\."):
        await ask(publishers["pia"], UploadRequest(files=(larger,), folder=True))
    assert store.find(urlsplit(permit.url).path.removeprefix("/slipway/")) == data
    assert (await ask(publishers["pia"], request)).state == "stored"


async def test_parts_of_uploads_that_were_never_finished_are_removed(intake, publishers, http, s3_server, store):
    """The registry does so every hour, with its own key of the store; others' uploads are not its own."""
    large = AnnouncedFile(
        path="model.safetensors",
        digest="sha256:" + "c" * 64,
        size_bytes=PART_BYTES + 1,
        parts=("sha256:" + "d" * 64, file_of(b"x").digest),
    )
    _, last = (await ask(publishers["pia"], UploadRequest(files=(large,)))).permits
    assert put(http, last, b"x") == 200
    others = blob_key("sha256:" + "e" * 64)
    upload = store._client._create_multipart_upload(store.bucket, others, {})

    def begun():
        return sorted(each.object_name for each in store._client._list_multipart_uploads(store.bucket).uploads)

    key = urlsplit(last.url).path.removeprefix("/slipway/")
    for clock, left in ((SystemClock(), {key, others}), (DayAfterTomorrow(), {others})):
        sweeping = Intake(StagedUploads(s3_server.settings("registry"), None, 60, clock), None, tuple)
        for each in await sweeping.keys():
            await sweeping.sweep(each)
        assert {key, others} & set(begun()) == left
    store._client._abort_multipart_upload(store.bucket, others, upload)


async def test_an_upload_survives_a_bus_that_is_away(nats_server, intake, publishers, monkeypatch):
    """For longer than some attempts to connect, while it asks nothing; who asks waits for a limited time."""
    monkeypatch.setattr("clients.training.bus.RECONNECT_WAIT_S", 0.05)
    monkeypatch.setattr("clients.training.bus.ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr("clients.training.bus.ACK_TIMEOUT_S", 0.5)
    with relaying(nats_server.port) as relay:
        connection = dataclasses.replace(publishers["pia"], nats_url=f"tls://127.0.0.1:{relay.port}")
        async with connected(connection) as publisher:
            relay.cut()
            await asyncio.sleep(1.5)
            asking = asyncio.create_task(publisher.ask(MODEL, UploadRequest()))
            await asyncio.sleep(0.7)
            relay.reconnect()
            assert (await asking).state == "stored"
            relay.cut()
            monkeypatch.setattr("clients.training.bus.PATIENCE_S", 1.0)
            with pytest.raises(PublishError, match="The registry gave no answer for 1 s"):
                await publisher.ask(MODEL, UploadRequest())
            with pytest.raises(PublishError, match="did not acknowledge the event"):
                await publisher.publish(factories.event(factories.fact(CheckpointReady)))
            ending = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - ending < 2.0
        with pytest.raises(PublishError, match="does not answer"):
            await ask(connection, UploadRequest())


async def test_others_models_too_many_files_and_pickles_are_refused(intake, publishers):
    request = UploadRequest(files=(file_of(b"x"),))
    with pytest.raises(PublishError, match=f"otto to publish to {UPLOADS}.{MODEL}.otto: it takes the role publisher"):
        await ask(publishers["otto"], request)
    many = tuple(file_of(b"x", f"f{number}.json") for number in range(MOST_FILES + 1))
    with pytest.raises(PublishError, match=r"malformed_event.*files"):
        await ask(publishers["pia"], UploadRequest.model_construct(files=many))
    with pytest.raises(PublishError, match="pickle_refused"):
        await ask(publishers["pia"], UploadRequest(files=(file_of(b"x", "optimizer.pt"),), folder=True))
    with pytest.raises(PublishError, match=r"unknown_base.*base import"):
        await ask(publishers["pia"], UploadRequest(base="nobody/nothing"))


async def test_a_teams_models_and_its_quota_count(nats_server, s3_server, publishers):
    team = Team(name="support", models=(MODEL,), members=("olga",))
    refused = pytest.raises(PublishError, match=r"team_mismatch.*belongs to team support")
    with running_intake(nats_server, s3_server, teams=(team,)), refused:
        await ask(publishers["pia"], UploadRequest(files=(file_of(b"x"),)))
    team = Team(name="support", models=(MODEL,), members=("pia",), quota=TeamQuota(stored_bytes=10**9))
    with running_intake(nats_server, s3_server, teams=(team,)):
        size = 10**9
        parts = ("sha256:" + "b" * 64,) * (-(-size // PART_BYTES))
        large = AnnouncedFile(path="model.safetensors", digest="sha256:" + "a" * 64, size_bytes=size, parts=parts)
        small = UploadRequest(files=(file_of(os.urandom(5)),))
        assert (await ask(publishers["pia"], small)).state == "missing"
        with pytest.raises(PublishError, match=r"team_quota_exceeded.*10000000.. bytes; team support has stored"):
            await ask(publishers["pia"], UploadRequest(files=(*small.files, large)))


async def test_an_answer_goes_to_the_publishers_inbox_only(nats_server, intake, publishers):
    client = await nats_server.connect()
    received = []

    async def receive(message):
        received.append(message.subject)

    body = UploadRequest(files=(file_of(b"x"),)).model_dump_json().encode()
    for reply in ("_INBOX_tests.a", "slipway.checkpoint.ready.v1.support-bot.registry"):
        await client.subscribe("_INBOX_tests.>", cb=receive)
        await client.publish(f"{UPLOADS}.{MODEL}.pia", body, reply=reply)
    await client.flush()
    assert (await ask(publishers["pia"], UploadRequest())).state == "stored"
    assert received == []
    await client.close()


async def test_an_upload_goes_on_where_a_killed_registry_left_it(nats_server, s3_server, publishers, http, tmp_path):
    """Nothing of an upload is kept in the registry: another one takes the parts that arrived."""
    folder = checkpoint(tmp_path / "large", 2 * PART_BYTES + 1000)
    path = folder / "adapter_model.safetensors"
    request = UploadRequest(files=(describe_file(path),))
    with running_intake(nats_server, s3_server):
        first, second, third = (await ask(publishers["pia"], request)).permits
        assert (first.offset, second.offset, third.offset) == (0, PART_BYTES, 2 * PART_BYTES)
        data = path.read_bytes()
        assert put(http, second, os.urandom(PART_BYTES)) == 400, "other bytes than announced"
        assert put(http, first, data[:PART_BYTES]) == 200
    advances = []
    uploading = asyncio.create_task(put_folder(publishers["pia"], folder, advances))
    await asyncio.sleep(1.0)  # no registry answers meanwhile
    with running_intake(nats_server, s3_server):
        answer = await ask(publishers["pia"], request)
        assert first.offset not in [permit.offset for permit in answer.permits]
        ref = await uploading
    assert advances[0][0] >= PART_BYTES, "what had arrived is not sent again"
    store = Store(s3_server.settings())
    manifest = FolderManifest.model_validate_json(store.get(ref))
    store.fetch_files(manifest.files, tmp_path / "back", store.prefix_of(ref))
    assert (tmp_path / "back" / path.name).read_bytes() == data
