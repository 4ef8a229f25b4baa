"""Uploads by URLs that the registry signs: a publisher without a key of the store, on a real bus and a real store."""

import os
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from clients.training import PublishError
from contracts.manifests import FolderManifest
from contracts.storage.uploads import MOST_FILES, PART_BYTES, UPLOADS, UploadRequest
from shared.runtime.clock import SystemClock
from tests.kit.intake import running_intake
from tests.kit.uploading import MODEL, ask, checkpoint, file_of, put, put_folder


class Yesterday(SystemClock):
    """A clock that is a day behind."""

    def now(self):
        return super().now() - timedelta(days=1)


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
    await intake.read_all()  # and nobody asks meanwhile
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
