"""What a location of backups promises, whatever it is made of."""

import pytest

from clients.cli.backup.contents import Blob
from contracts.vocabulary import digest_of
from shared.errors import Permanent
from shared.storage.objects import AlreadyExists


def blob_of(data: bytes) -> Blob:
    return Blob(digest=digest_of(data), size_bytes=len(data))


class BackupLocationConformance:
    """Subclasses have the fixture `location`: one that holds nothing."""

    def test_what_was_put_is_read_again(self, location):
        for data in (b"", b"some bytes"):
            blob = blob_of(data)
            assert not location.has(blob)
            location.put(blob, [memoryview(data)] if data else [])
            assert location.has(blob)
            assert b"".join(location.read(blob)) == data

    def test_what_is_there_is_not_read_from_its_source_again(self, location):
        location.put(blob_of(b"once"), [memoryview(b"once")])

        def source():
            raise AssertionError("it is there already")
            yield memoryview(b"")

        location.put(blob_of(b"once"), source())

    def test_parts_that_are_not_what_the_digest_names_leave_nothing(self, location):
        for wrong in (b"other bytes!", b"", b"some bytes and more"):
            with pytest.raises(Permanent, check=lambda error: error.code == "digest_mismatch"):
                location.put(blob_of(b"some bytes"), [memoryview(wrong)])
            assert not location.has(blob_of(b"some bytes"))

    def test_a_source_that_breaks_off_leaves_nothing(self, location):
        def source():
            yield memoryview(b"some ")
            raise ConnectionError

        with pytest.raises(ConnectionError):
            location.put(blob_of(b"some bytes"), source())
        assert not location.has(blob_of(b"some bytes"))

    def test_what_is_missing_is_said(self, location):
        with pytest.raises(Permanent, check=lambda error: error.code == "artifact_not_found"):
            b"".join(location.read(blob_of(b"never put")))
        with pytest.raises(Permanent, check=lambda error: error.code == "artifact_not_found"):
            location.manifest("20260101T000000000000Z")

    def test_manifests_are_committed_once_and_listed_in_order(self, location):
        assert location.names() == []
        location.commit("20260102T000000000000Z", b"second")
        location.commit("20260101T000000000000Z", b"first")
        assert location.names() == ["20260101T000000000000Z", "20260102T000000000000Z"]
        assert location.manifest("20260101T000000000000Z") == b"first"
        with pytest.raises(AlreadyExists):
            location.commit("20260101T000000000000Z", b"another")
        assert location.manifest("20260101T000000000000Z") == b"first"
