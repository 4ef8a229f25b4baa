"""Uploads: what is missing, what is refused, whom an answer goes to, and how a URL is signed."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.storage.uploads import PART_BYTES, UPLOADS, AnnouncedFile, UploadRequest
from contracts.teams import Team, TeamQuota
from services.registry.adapters.uploads import Signer
from services.registry.domain.team_quotas import find_excess_upload
from services.registry.domain.uploads import assess_request, bytes_of, missing_parts, parse_subject

DIGEST = "sha256:" + "a" * 64


def file_of(size: int, path: str = "model.safetensors") -> AnnouncedFile:
    count = -(-size // PART_BYTES) if size > PART_BYTES else 0
    return AnnouncedFile(path=path, digest=DIGEST, size_bytes=size, parts=(DIGEST,) * count)


def test_a_url_is_signed_as_in_the_example_that_aws_publishes():
    signer = Signer(
        "AKIA" + "IOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "us-east-1",
        "examplebucket.s3.amazonaws.com",
    )
    url = signer.url("GET", "/test.txt", datetime(2013, 5, 24, tzinfo=UTC), expires_s=86400, headers={})
    assert url.endswith("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


@given(st.integers(PART_BYTES + 1, 40 * PART_BYTES), st.data())
def test_the_parts_that_are_missing_and_those_that_arrived_are_the_file(size, data):
    file = file_of(size)
    numbers = range(1, len(file.parts) + 1)
    sizes = {number: min(PART_BYTES, size - (number - 1) * PART_BYTES) for number in numbers}
    arrived = {number: sizes[number] for number in data.draw(st.sets(st.sampled_from(numbers)))}
    broken = {number: 1 for number in data.draw(st.sets(st.sampled_from(numbers))) if number not in arrived}
    pieces = missing_parts(file, {**arrived, **{n: s for n, s in broken.items() if s != sizes[n]}})
    assert {piece.number for piece in pieces} >= set(numbers) - set(arrived) - {n for n in broken if sizes[n] == 1}
    assert sum(piece.size_bytes for piece in pieces if piece.number not in arrived) <= size - sum(arrived.values())
    assert all(piece.offset == (piece.number - 1) * PART_BYTES for piece in pieces)


@pytest.mark.parametrize("size", [PART_BYTES + 1, PART_BYTES, 0])
def test_a_file_is_announced_with_the_digests_of_its_parts(size):
    wrong = 1 if size <= PART_BYTES else 3
    with pytest.raises(ValidationError, match="digests of parts are needed"):
        AnnouncedFile(path="x", digest=DIGEST, size_bytes=size, parts=(DIGEST,) * wrong)


@pytest.mark.parametrize(
    ("subject", "reply", "parsed"),
    [
        (f"{UPLOADS}.m.pia", "_INBOX_pia.1.2", ("m", "pia")),
        (f"{UPLOADS}.m.pia", "_INBOX_piano.1", None),
        (f"{UPLOADS}.m.pia", "", None),
        (f"{UPLOADS}.m.pia", "slipway.checkpoint.ready.v1.m.registry", None),
        (f"{UPLOADS}.m.pia.x", "_INBOX_pia.1", None),
        ("slipway.checkpoint.ready.v1.m.pia", "_INBOX_pia.1", None),
        (f"{UPLOADS}.m/uploads/otto-files.pia", "_INBOX_pia.1", None),
        (f"{UPLOADS}.M.pia", "_INBOX_pia.1", None),
        (f"{UPLOADS}.m\n.pia", "_INBOX_pia.1", None),
        (f"{UPLOADS}.{'m' * 64}.pia", "_INBOX_pia.1", None),
    ],
)
def test_an_answer_goes_to_the_publisher_of_a_request_for_an_upload(subject, reply, parsed):
    assert parse_subject(subject, reply) == parsed


@pytest.mark.parametrize("path", ["optimizer.pt", "sub/model.safetensors", "README.md"])
def test_a_folder_has_files_of_a_checkpoint_only(path):
    refusal = assess_request(UploadRequest(files=(file_of(1, path),), folder=True))
    assert refusal is not None
    assert path in refusal.reason
    assert assess_request(UploadRequest(files=(file_of(1, path),))) is None, "a set has any name"


def test_a_content_has_one_size():
    """Else the manifest of the folder would state one that no file has."""
    files = (file_of(7, "a.json"), file_of(8, "b.json"))
    for folder in (True, False):
        refusal = assess_request(UploadRequest(files=files, folder=folder))
        assert refusal is not None
        assert (refusal.code, refusal.details) == ("digest_mismatch", {"path": "a.json"})
        assert "with 7 bytes and with 8" in refusal.reason


def test_a_path_is_named_once_and_a_content_counts_once():
    with pytest.raises(ValidationError, match="each path once"):
        UploadRequest(files=(file_of(1), file_of(1)))
    assert bytes_of((file_of(7, "a"), file_of(7, "b"))) == 7


@given(st.integers(0, 100), st.integers(0, 100))
def test_an_upload_is_refused_by_what_it_adds_to_what_is_stored(stored, needed):
    team = Team(name="support", models=("m",), quota=TeamQuota(stored_bytes=100))
    assert (find_excess_upload(team, stored, needed) is None) == (stored + needed <= 100)
    assert find_excess_upload(team.model_copy(update={"quota": TeamQuota()}), stored, needed) is None
