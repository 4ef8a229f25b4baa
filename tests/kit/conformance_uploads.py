"""What the registry relies on of the store of uploads: one suite for the fake and for the real store."""

import secrets
from datetime import timedelta

import pytest

from contracts.manifests import BaseManifest
from contracts.vocabulary import ArtifactRef, digest_of
from services.registry.domain.uploads import Piece, blob_key
from tests.kit.fakes_registry import START

PART = 5 * 1024 * 1024
"""The smallest part that S3 servers take, but for the last."""
TWO_DAYS = timedelta(days=2)


def whole(data):
    return Piece(digest_of(data), 0, 0, len(data))


class UploadStoreConformance:
    """Subclasses have the fixtures `uploads` (the store), `send` (PUT by a permit; the status) and `wait` (lets time pass)."""

    @pytest.fixture
    def key(self):
        return blob_key(f"bot-{secrets.token_hex(4)}", "pia", digest_of(secrets.token_bytes(8)))

    def test_a_permit_takes_the_announced_bytes_once(self, uploads, send, key):
        data = secrets.token_bytes(100)
        assert uploads.find_file(key) is None
        permit = uploads.permit(key, digest_of(data), whole(data))
        assert (permit.digest, permit.offset, permit.size_bytes) == (digest_of(data), 0, 100)
        assert permit.url.startswith("https://")
        assert [send(permit, data[:-1]), send(permit, data + b"x"), send(permit, secrets.token_bytes(100))] == [
            403,
            403,
            400,
        ]
        assert uploads.find_file(key) is None
        assert [send(permit, data), send(permit, data)] == [200, 412]
        stored = uploads.find_file(key)
        assert stored.size_bytes == 100
        assert uploads.digest_of(key, stored.version) == uploads.digest_of(key, None) == digest_of(data)

    def test_what_is_removed_is_not_there_and_its_successor_is_another_object(self, uploads, send, key):
        data = secrets.token_bytes(10)
        permit = uploads.permit(key, digest_of(data), whole(data))
        assert send(permit, data) == 200
        first = uploads.find_file(key)
        uploads.remove(key)
        assert uploads.find_file(key) is None
        assert send(permit, data) == 200
        assert uploads.find_file(key).version != first.version or first.version is None

    def test_parts_become_an_object_when_it_is_completed(self, uploads, send, key):
        first, last = secrets.token_bytes(PART), b"x"
        data = first + last
        upload, arrived = uploads.open_upload(key)
        assert arrived == {}
        assert uploads.open_upload(key) == (upload, {})
        parts = [Piece(digest_of(first), 1, 0, PART), Piece(digest_of(last), 2, PART, 1)]
        permits = [uploads.permit(key, digest_of(data), part, upload) for part in parts]
        assert [permit.offset for permit in permits] == [0, PART]
        assert [send(permits[1], b"y"), send(permits[1], last), send(permits[1], last)] == [400, 200, 200]
        assert uploads.open_upload(key) == (upload, {2: 1})
        assert uploads.find_file(key) is None
        assert send(permits[0], first) == 200
        uploads.complete(key, upload, [part.digest for part in parts])
        stored = uploads.find_file(key)
        assert (stored.size_bytes, uploads.digest_of(key, stored.version)) == (PART + 1, digest_of(data))

    def test_an_object_that_exists_stays_when_its_parts_are_completed(self, uploads, send, key):
        data = secrets.token_bytes(20)
        upload, _ = uploads.open_upload(key)
        part = uploads.permit(key, digest_of(data), Piece(digest_of(data), 1, 0, 20), upload)
        assert send(part, data) == 200
        assert send(uploads.permit(key, digest_of(data), whole(data)), data) == 200
        before = uploads.find_file(key)
        uploads.complete(key, upload, [digest_of(data)])
        assert uploads.find_file(key) == before

    def test_parts_that_became_no_object_are_removed_after_a_day(self, uploads, send, wait, key):
        upload, _ = uploads.open_upload(key)
        assert send(uploads.permit(key, digest_of(b"xy"), Piece(digest_of(b"x"), 1, 0, 1), upload), b"x") == 200
        uploads.abort_unfinished()
        assert uploads.open_upload(key) == (upload, {1: 1})
        wait(TWO_DAYS)
        uploads.abort_unfinished()
        again, arrived = uploads.open_upload(key)
        assert (again != upload, arrived) == (True, {})

    def test_a_manifest_is_written_once(self, uploads, key):
        ref, created = uploads.put_manifest(key, b"{}")
        assert (ref, created) == (ArtifactRef(uri=uploads.uri(key), digest=digest_of(b"{}"), size_bytes=2), True)
        assert uploads.put_manifest(key, b"[]") == (ref, False)

    def test_a_base_model_is_found_by_its_name_and_its_revision(self, uploads):
        name = f"acme/base-{secrets.token_hex(4)}"
        folder = ArtifactRef(uri=uploads.uri("manifests/folder/a.json"), digest=digest_of(b"a"), size_bytes=1)
        for days, revision in enumerate(("9", "10")):
            manifest = BaseManifest(
                name=name,
                revision=revision,
                folder=folder,
                weights_bytes=1,
                architecture="LlamaForCausalLM",
                imported_at=START + timedelta(days=days),
                source="tests",
            )
            uploads.put_manifest(f"bases/{name}/{revision}.json", manifest.model_dump_json().encode())
        assert uploads.find_base(name).revision == "10"
        assert uploads.find_base(f"{name}@9").revision == "9"
        assert uploads.find_base(f"{name}@11") is None
        assert uploads.find_base(f"{name}-other") is None
        assert uploads.base_names().count(name) == 1
