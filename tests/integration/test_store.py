"""The object store on a real S3 server: create-only commits, verified reads, and server-manager's copies of it."""

import contextlib
import hashlib
import random
import time
from datetime import timedelta

import pytest
from minio.error import S3Error

from contracts.manifests import FolderManifest
from contracts.vocabulary import ArtifactRef, Deployable, Target, digest_of
from services.server_manager.adapters.artifact_cache import ArtifactCache
from shared.errors import Permanent, Transient
from shared.runtime.clock import SystemClock
from shared.storage.blobs import STALE_UPLOAD, Store, blob_key, manifest_key
from shared.storage.objects import AlreadyExists
from tests.kit.conformance_serving import ArtifactsConformance
from tests.kit.fakes_serving import AllProven
from tests.kit.s3_proxy import refuse, standing_before

NOW = SystemClock().now


@pytest.fixture
def store(settings):
    return Store(settings)


def test_server_honours_create_only_puts(store):
    store.check_create_only()


def test_a_bucket_that_does_not_exist_or_is_not_ours_is_not_reachable(settings, watched, proxy):
    """The readiness of services depends on it: otherwise they are ready although no result can be stored."""
    with pytest.raises(Transient, match="does not permit admin this") as caught:
        Store(settings.model_copy(update={"s3_bucket": "missing"})).reachable()
    assert caught.value.code == "store_unavailable"
    proxy.instead = lambda request: refuse(request, 404, "NoSuchBucket")
    with pytest.raises(Transient, match="bucket slipway does not exist") as caught:
        watched.reachable()
    assert caught.value.code == "store_unavailable"


def test_second_create_is_refused_and_the_first_stays(store):
    store.create("t/one", b"first")
    with pytest.raises(AlreadyExists):
        store.create("t/one", b"second")
    assert store.find("t/one") == b"first"


def test_a_blob_of_another_size_under_the_same_name_is_refused_and_not_taken_for_the_right_one(store):
    data = b"what was uploaded whole"
    key = blob_key(digest_of(data), "t/")
    store.create(key, data[:5])
    with pytest.raises(Permanent, match=r"has 5 bytes instead of 23") as caught:
        store.put_blob(memoryview(data), "f", "t/")
    assert caught.value.code == "digest_mismatch"


def test_put_manifest_returns_the_one_already_there(store):
    first, created = store.put_manifest("manifests/t/a.json", b"{}")
    again, created_again = store.put_manifest("manifests/t/a.json", b'{"other":1}')
    assert (created, created_again) == (True, False)
    assert again == first


def test_of_two_commits_under_one_key_the_first_stays_and_both_return_it(store):
    first, second = (Target(model="m", version=version, variant="int8") for version in (1, 2))
    committed = store.commit("manifests/t/commit.json", first)
    assert committed[0] == first
    assert store.commit("manifests/t/commit.json", second) == committed


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
    monkeypatch.setattr("shared.storage.transfer.PART_BYTES", 5 * 1024 * 1024)  # the least that S3 allows


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


def test_unreachable_store_is_transient(settings):
    nowhere = Store(settings.model_copy(update={"s3_endpoint": "127.0.0.1:9"}))
    with pytest.raises(Transient) as caught:
        nowhere.find("x")
    assert caught.value.code == "store_unavailable"


@pytest.fixture
def proxy(s3_server):
    with standing_before(s3_server) as running_proxy:
        yield running_proxy


@pytest.fixture
def watched(settings, proxy):
    """The same store, reached by way of a proxy."""
    return Store(settings.model_copy(update={"s3_endpoint": proxy.endpoint}))


def test_files_and_ranges_are_read_over_connections_that_are_kept(watched, proxy, tmp_path):
    """A handshake for each of many small files would cost as much processor time as their transfer."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"{number}").write_bytes(random.Random(number).randbytes(3000))
    manifest = watched.put_folder(source)
    before = proxy.connections
    watched.fetch_files(manifest.files, tmp_path / "copy")
    for file in manifest.files:
        watched.read_into(file, 1000, memoryview(bytearray(500)))
    assert len(proxy.of("GET", "blobs/")) == 24
    assert proxy.connections == before


@pytest.mark.parametrize("answer", [(200, 3000, {}), (206, 500, {"Content-Range": "bytes 0-499/3000"})])
def test_the_answer_of_a_server_that_sends_other_bytes_than_asked_is_not_taken(watched, proxy, tmp_path, answer):
    status, end, part = answer
    (tmp_path / "f").write_bytes(bytes(range(250)) * 12)
    entry = watched.put_file(tmp_path / "f", "f")

    def instead(request):
        request.answer(status, (tmp_path / "f").read_bytes()[:end], part)
        return True

    proxy.instead = instead
    with pytest.raises(Transient, match="instead of bytes 1000-1499") as caught:
        watched.read_into(entry, 1000, memoryview(bytearray(500)))
    assert caught.value.code == "store_unavailable"


def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(watched, proxy, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(bytes(3000))
    (file,) = watched.put_folder(source).files
    longer = file.model_copy(update={"size_bytes": 2999})
    for _ in range(3):
        with pytest.raises(Permanent):
            watched.fetch_files([longer], tmp_path / "copy")
        watched.fetch_files([file], tmp_path / "copy")
        assert (tmp_path / "copy/f").read_bytes() == bytes(3000)


def test_parts_that_are_on_the_way_arrive_before_a_failed_upload_is_aborted(watched, proxy, small_parts):
    def instead(request):
        if "partNumber=1&" in request.path:
            return refuse(request, 403, "AccessDenied")
        if "partNumber" in request.path:
            time.sleep(0.5)  # a slow server: these are on the way when the first one fails
        return False

    proxy.instead = instead
    with pytest.raises(Permanent, match="does not permit admin this"):
        watched.put_blob(memoryview(random.Random(5).randbytes(60_000_000)), "f")
    (aborted,) = proxy.of("DELETE", "uploadId")
    parts = proxy.of("PUT", "partNumber")
    assert 2 <= len(parts) < 12  # those that had not begun were not sent
    time.sleep(1)  # twice what a part takes: nothing more may come, which no condition could tell
    assert proxy.of("PUT", "partNumber") == parts
    assert max(part.ended for part in parts) <= aborted.began
    assert watched._client._list_multipart_uploads(watched.bucket).uploads == []


def test_abort_that_fails_does_not_hide_why_the_upload_did(watched, proxy, small_parts, capsys):
    data = memoryview(random.Random(6).randbytes(11_000_000))
    watched.put_blob(data, "f", "taken/")
    proxy.instead = lambda request: request.command == "DELETE" and refuse(request, 403, "AccessDenied")
    with pytest.raises(S3Error, match="PreconditionFailed"), watched._client.creating():
        watched._client.write(watched.bucket, blob_key(f"sha256:{hashlib.sha256(data).hexdigest()}", "taken/"), data)
    assert "could not be aborted" in capsys.readouterr().out
    watched.abort_stale_uploads(NOW() + timedelta(minutes=1))
    assert len(watched._client._list_multipart_uploads(watched.bucket).uploads) == 1  # refused again, and no error
    proxy.instead = lambda _request: False
    watched.abort_stale_uploads(NOW() + timedelta(minutes=1))
    assert watched._client._list_multipart_uploads(watched.bucket).uploads == []


def test_uploads_whose_process_was_killed_are_aborted_once_they_are_old(store, monkeypatch):
    monkeypatch.setattr("shared.storage.transfer.LISTED_UPLOADS", 1)  # the list has several pages
    digest = digest_of(b"never whole")
    publishers = blob_key(digest, "checkpoints/m/uploads/pia-files/")
    keys = [blob_key(digest), blob_key(digest, "checkpoints/m/"), "other/file.bin", publishers]
    uploads = {key: store._client._create_multipart_upload(store.bucket, key, {}) for key in keys}
    store._client._upload_part(store.bucket, keys[0], memoryview(bytes(5 * 1024 * 1024)), None, uploads[keys[0]], 1)

    def still_open():
        return sorted(upload.object_name for upload in store._client._list_multipart_uploads(store.bucket).uploads)

    store.abort_stale_uploads(NOW() - STALE_UPLOAD)
    assert still_open() == sorted(keys)  # a replica may be at work on them
    store.abort_stale_uploads(NOW() + timedelta(minutes=1))
    assert still_open() == [publishers, "other/file.bin"]
    for key in keys[2:]:
        store._client._abort_multipart_upload(store.bucket, key, uploads[key])


def test_store_that_cannot_list_uploads_is_left_alone(watched, proxy):
    proxy.instead = lambda request: "uploads=" in request.path and refuse(request, 501, "NotImplemented")
    watched.abort_stale_uploads(NOW())
    assert proxy.of("GET", "uploads=")


def test_objects_that_are_too_large_are_not_read_whole(store, monkeypatch):
    monkeypatch.setattr("shared.storage.objects.WHOLE_BYTES", 1000)
    fits, larger = store.create("t/fits", b"x" * 1000), store.create("t/larger", b"x" * 1001)
    assert store.get(fits) == store.find("t/fits") == b"x" * 1000
    for read in (lambda: store.get(larger), lambda: store.find("t/larger"), lambda: store.ref_to("t/larger")):
        with pytest.raises(Permanent, match=r"t/larger has more than .* name the manifest") as caught:
            read()
        assert caught.value.code == "artifact_not_found"


@pytest.mark.parametrize("announced", [9, 11])
def test_artifact_of_another_size_is_refused(store, announced):
    ref = store.create(f"t/ten-{announced}", b"0123456789")
    with pytest.raises(Permanent, match=f"10 bytes instead of {announced}") as caught:
        store.get(ref.model_copy(update={"size_bytes": announced}))
    assert caught.value.code == "digest_mismatch"


def test_an_object_whose_connection_breaks_is_read_again_later(watched, proxy):
    data = b"x" * 1000
    ref = watched.create("t/cut", data)

    def instead(request):
        if request.command != "GET":
            return False
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(data[:400])
        request.close_connection = True
        return True

    proxy.instead = instead
    for read in (lambda: watched.get(ref), lambda: watched.find("t/cut")):
        with pytest.raises(Transient) as caught:
            read()
        assert caught.value.code == "store_unavailable"


@pytest.mark.parametrize("length", ["100000000000", "5", None])
def test_no_more_is_read_than_an_object_may_have_whatever_the_server_says(watched, proxy, monkeypatch, length):
    """It sends 64 MiB, of which it announces far more, less, or nothing."""
    monkeypatch.setattr("shared.storage.objects.WHOLE_BYTES", 1_000_000)
    sent = []

    def instead(request):
        if request.command != "GET" or "/t/vast" not in request.path:
            return False
        request.send_response(200)
        request.send_header(*(("Content-Length", length) if length else ("Transfer-Encoding", "chunked")))
        request.end_headers()
        piece = bytes(1024 * 1024)
        with contextlib.suppress(OSError):
            for _ in range(64):
                request.wfile.write(piece if length else b"100000\r\n" + piece + b"\r\n")
                sent.append(len(piece))
        request.close_connection = True
        return True

    proxy.instead = instead
    ref = ArtifactRef(uri=watched.uri("t/vast"), digest=digest_of(b"12345"), size_bytes=5)
    with pytest.raises(Permanent) as caught:
        watched.get(ref)
    assert caught.value.code == "digest_mismatch"
    if length == "5":
        assert watched.find("t/vast") == bytes(5)
    else:
        with pytest.raises(Permanent) as caught:
            watched.find("t/vast")
        assert caught.value.code == "artifact_not_found"
    assert sum(sent) < 50 * 1024 * 1024  # of 128; what the sockets hold is sent, too


class TestArtifactCache(ArtifactsConformance):
    @pytest.fixture
    def artifacts(self, store, tmp_path):
        return ArtifactCache(store, tmp_path / "artifacts", check=AllProven())

    @pytest.fixture
    def stored(self, store, tmp_path):
        def put(version):
            folder = tmp_path / f"v{version}"
            folder.mkdir()
            for name, data in {**self.DESCRIBING, "weights": bytes([version])}.items():
                (folder / name).write_bytes(data)
            key = manifest_key("variant", digest_of(f"served {version}".encode()))
            ref, _ = store.put_manifest(key, store.put_folder(folder))
            return Deployable(
                target=Target(model="bot", version=version, variant="bf16"), manifest=ref, weights_bytes=1
            )

        return put

    @pytest.fixture
    def missing(self, stored):
        return stored(1).model_copy(
            update={"manifest": ArtifactRef(uri="s3://slipway/nothing.json", digest=digest_of(b"x"), size_bytes=1)}
        )


@pytest.mark.parametrize("bait", ["key.json", "sub/key.json"])
def test_a_link_that_a_process_left_in_its_folder_is_not_uploaded(store, tmp_path, bait):
    (tmp_path / "key.json").write_text("the service's key")
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/config.json").write_text("{}")
    (tmp_path / "out" / bait).symlink_to(tmp_path / "key.json")
    before = store.keys("")
    with pytest.raises(Permanent, match="is not a regular file"):
        store.put_folder(tmp_path / "out")
    assert store.keys("") == before
