"""The object store on a real S3 server: create-only commits, verified reads."""

import asyncio
import contextlib
import random

import pytest
from minio.error import S3Error

from contracts.manifests import FolderManifest
from contracts.vocabulary import ArtifactRef, digest_of
from shared.blobs import AlreadyExists, Store, blob_key
from shared.errors import Permanent, Transient
from tests.kit.servers import connection


@pytest.fixture
def store(settings):
    return Store(settings)


def test_server_honours_create_only_puts(store):
    store.check_create_only()


def test_second_create_is_refused_and_the_first_stays(store):
    store.create("t/one", b"first")
    with pytest.raises(AlreadyExists):
        store.create("t/one", b"second")
    assert store.find("t/one") == b"first"


async def test_one_winner_among_eight_writers(store):
    async def attempt(number: int) -> bool:
        with contextlib.suppress(AlreadyExists):
            await asyncio.to_thread(store.create, "t/race", str(number).encode())
            return True
        return False

    winners = await asyncio.gather(*(attempt(number) for number in range(8)))
    assert sum(winners) == 1
    assert store.find("t/race") == str(winners.index(True)).encode()


def test_put_manifest_returns_the_one_already_there(store):
    first, created = store.put_manifest("manifests/t/a.json", b"{}")
    again, created_again = store.put_manifest("manifests/t/a.json", b'{"other":1}')
    assert (created, created_again) == (True, False)
    assert again == first


def test_folder_round_trip_verifies_and_keeps_bytes(store, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a.txt").write_bytes(b"a" * 1000)
    (source / "sub" / "b.bin").write_bytes(bytes(range(256)) * 100)
    seen = []
    manifest = store.put_folder(source, "checkpoints/m/", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (manifest.size_bytes, manifest.size_bytes)
    target = tmp_path / "target"
    store.fetch_files(manifest.files, target, "checkpoints/m/")
    assert (target / "sub/b.bin").read_bytes() == (source / "sub/b.bin").read_bytes()
    assert FolderManifest.model_validate_json(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


def test_corrupted_blob_is_never_handed_out(store, tmp_path):
    (tmp_path / "f").write_bytes(b"honest")
    entry = store.put_file(tmp_path / "f", "f")
    key = blob_key(entry.digest)
    store._client.remove_object(bucket_name=store.bucket, object_name=key)
    store.create(key, b"forged")
    with pytest.raises(Permanent) as caught:
        store.fetch_files([entry], tmp_path / "out")
    assert caught.value.code == "digest_mismatch"
    assert not (tmp_path / "out" / "f").exists()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("shared.transfer.PART_BYTES", 5 * 1024 * 1024)  # the least that S3 allows


def test_large_blobs_travel_in_parts_and_ranges(store, tmp_path, small_parts):
    data = random.Random(1).randbytes(12_345_678)
    sent = []
    entry = store.put_blob(memoryview(data), "f", "t/", sent.append)
    assert (sum(sent), len(sent)) == (len(data), 3)
    assert store.find(blob_key(entry.digest, "t/")) == data
    for start, length in ((0, 8), (99_999, 6_000_002), (12_345_671, 7)):
        out = bytearray(length)
        store.read_into(entry, start, memoryview(out), "t/")
        assert out == data[start : start + length]
    seen = []
    store.fetch_files([entry], tmp_path, "t/", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "f").read_bytes() == data
    assert seen[-1] == (len(data), len(data))
    assert len(seen) == 24  # chunks of 512 KiB


def test_parts_are_create_only_too_and_what_is_there_is_not_sent_again(store, small_parts):
    data = memoryview(random.Random(2).randbytes(11_000_000))
    sent = []
    entry = store.put_blob(data, "f", "t/", sent.append)
    assert store.put_blob(data, "g", "t/", sent.append).digest == entry.digest
    assert sum(sent) == len(data)
    with pytest.raises(S3Error, match="PreconditionFailed"), store._client.creating():
        store._client.write(store.bucket, blob_key(entry.digest, "t/"), data)


@pytest.mark.parametrize("announced", [9, 11, 2000])
def test_a_blob_of_another_size_is_not_read(store, tmp_path, announced):
    entry = store.put_blob(memoryview(b"0123456789"), "f").model_copy(update={"size_bytes": announced})
    for read in (
        lambda: store.read_into(entry, 0, memoryview(bytearray(5))),
        lambda: store.fetch_files([entry], tmp_path),
    ):
        with pytest.raises(Permanent) as caught:
            read()
        assert caught.value.code == "digest_mismatch"


def test_an_empty_file_is_a_blob(store, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    entry = store.put_file(tmp_path / "empty", "empty")
    store.fetch_files([entry], tmp_path / "out")
    assert (tmp_path / "out" / "empty").read_bytes() == b""


def test_missing_and_wrong_artifacts_are_named(store):
    absent = ArtifactRef(uri=store.uri("t/absent"), digest=digest_of(b""), size_bytes=0)
    with pytest.raises(Permanent) as caught:
        store.get(absent)
    assert caught.value.code == "artifact_not_found"
    there = store.create("t/there", b"bytes")
    with pytest.raises(Permanent) as caught:
        store.get(there.model_copy(update={"digest": digest_of(b"other")}))
    assert caught.value.code == "digest_mismatch"


@pytest.mark.parametrize("uri", ["s3://elsewhere/key", "https://example.org/x", "s3://slipway/a/../b", "file:///etc"])
def test_other_places_are_not_allowed(store, uri):
    with pytest.raises(Permanent) as caught:
        store.key_of(uri)
    assert caught.value.code == "uri_not_allowed"


def test_unreachable_store_is_transient(nats_server, tmp_path):
    nowhere = Store(connection(None, None, tmp_path, s3_endpoint="127.0.0.1:9", s3_access_key="a", s3_secret_key="b"))
    with pytest.raises(Transient) as caught:
        nowhere.find("x")
    assert caught.value.code == "store_unavailable"
