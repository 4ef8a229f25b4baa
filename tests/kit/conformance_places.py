"""What a place of backups promises, whatever it is made of."""

import pytest

from clients.cli.backup.contents import Blob
from contracts.vocabulary import digest_of
from shared.errors import Permanent
from shared.storage.objects import AlreadyExists


def blob_of(data: bytes) -> Blob:
    return Blob(digest=digest_of(data), size_bytes=len(data))


class PlaceConformance:
    """Subclasses have the fixture `place`: one that holds nothing."""

    def test_what_was_put_is_read_again(self, place):
        for data in (b"", b"some bytes"):
            blob = blob_of(data)
            assert not place.has(blob)
            place.put(blob, [memoryview(data)] if data else [])
            assert place.has(blob)
            assert b"".join(place.read(blob)) == data

    def test_what_is_there_is_not_read_from_its_source_again(self, place):
        place.put(blob_of(b"once"), [memoryview(b"once")])

        def source():
            raise AssertionError("it is there already")
            yield memoryview(b"")

        place.put(blob_of(b"once"), source())

    def test_parts_that_are_not_what_the_digest_names_leave_nothing(self, place):
        for wrong in (b"other bytes!", b"", b"some bytes and more"):
            with pytest.raises(Permanent, check=lambda error: error.code == "digest_mismatch"):
                place.put(blob_of(b"some bytes"), [memoryview(wrong)])
            assert not place.has(blob_of(b"some bytes"))

    def test_a_source_that_breaks_off_leaves_nothing(self, place):
        def source():
            yield memoryview(b"some ")
            raise ConnectionError

        with pytest.raises(ConnectionError):
            place.put(blob_of(b"some bytes"), source())
        assert not place.has(blob_of(b"some bytes"))

    def test_what_is_missing_is_said(self, place):
        with pytest.raises(Permanent, check=lambda error: error.code == "artifact_not_found"):
            b"".join(place.read(blob_of(b"never put")))
        with pytest.raises(Permanent, check=lambda error: error.code == "artifact_not_found"):
            place.manifest("20260101T000000000000Z")

    def test_manifests_are_committed_once_and_listed_in_order(self, place):
        assert place.names() == []
        place.commit("20260102T000000000000Z", b"second")
        place.commit("20260101T000000000000Z", b"first")
        assert place.names() == ["20260101T000000000000Z", "20260102T000000000000Z"]
        assert place.manifest("20260101T000000000000Z") == b"first"
        with pytest.raises(AlreadyExists):
            place.commit("20260101T000000000000Z", b"another")
        assert place.manifest("20260101T000000000000Z") == b"first"
