"""The files that a publisher may upload, and the parts still missing. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts.storage.sources import travels
from contracts.storage.uploads import PART_BYTES, UPLOADS, AnnouncedFile, UploadRequest
from contracts.teams import Team
from contracts.vocabulary import MODEL_NAME_PATTERN
from services.registry.domain.admission import Refusal
from services.registry.domain.team_quotas import find_excess_upload

MOST_PERMITS = 64
"""Maximum permits in one answer: 4 GiB in parts, few enough to upload before the permits expire."""


@dataclass(frozen=True)
class Piece:
    """The bytes of a file that one request uploads: number 0 is the whole file, 1 and up are parts."""

    digest: str
    number: int
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class StoredFile:
    """A file in the store.

    Attributes:
        size_bytes: Size in bytes.
        version: Object version; None if the bucket is not versioned.
        tag: ETag, which changes with the content.
    """

    size_bytes: int
    version: str | None
    tag: str


def parse_subject(subject: str, reply: str) -> tuple[str, str] | None:
    """Return the model and publisher of an upload request; None if it must not be answered.

    The bus checks that the subject names the sender; a copied message keeps its own subject and is ignored. Answers go
    only to the publisher's inbox, never to another subject.
    """
    tokens = subject.split(".")
    if len(tokens) != 5 or ".".join(tokens[:3]) != UPLOADS:
        return None
    model, publisher = tokens[3:]
    if re.fullmatch(MODEL_NAME_PATTERN, model) is None:  # the name becomes part of store keys
        return None
    return (model, publisher) if reply.startswith(f"_INBOX_{publisher}.") else None


def assess_request(request: UploadRequest) -> Refusal | None:
    """Refuse files that no checkpoint has (pickles, nested paths), and one digest with two sizes."""
    sizes = {file.digest: file.size_bytes for file in request.files}
    for file in request.files:
        if sizes[file.digest] != file.size_bytes:
            reason = f"{file.digest} is announced with {file.size_bytes} bytes and with {sizes[file.digest]}."
            return Refusal("digest_mismatch", reason, {"path": file.path[:200]})
    for file in request.files if request.folder else ():
        if "/" in file.path or not travels(file.path):
            reason = (
                f"{file.path[:200]} is not a file of a checkpoint: upload safetensors, configuration and tokenizer."
            )
            return Refusal("pickle_refused", reason, {"path": file.path[:200]})
    return None


def assess_quota(team: Team | None, stored: Mapping[str, int], needed: int) -> Refusal | None:
    """Refuse an upload that exceeds its team's quota of stored bytes."""
    reason = find_excess_upload(team, sum(stored.values()), needed) if team is not None else None
    return Refusal("team_quota_exceeded", reason, {"needed": needed}) if reason else None


def upload_prefix(model: str, publisher: str) -> str:
    """Return the key prefix of a publisher's uploads for a model; no other keys are permitted."""
    return f"checkpoints/{model}/uploads/{publisher}-files/"


def blob_key(model: str, publisher: str, digest: str) -> str:
    """Return the store key of an uploaded file."""
    return f"{upload_prefix(model, publisher)}blobs/sha256/{digest[7:9]}/{digest[7:]}"


def folder_key(model: str, publisher: str, digest: str) -> str:
    """Return the store key of an uploaded folder's manifest."""
    return f"{upload_prefix(model, publisher)}manifests/folder/{digest.removeprefix('sha256:')}.json"


def whole(file: AnnouncedFile) -> Piece:
    """Return a whole file as one piece."""
    return Piece(file.digest, 0, 0, file.size_bytes)


def missing_parts(file: AnnouncedFile, arrived: Mapping[int, int]) -> list[Piece]:
    """Return a file's missing parts, given the arrived sizes by part number."""
    pieces = []
    for number, digest in enumerate(file.parts, 1):
        offset = (number - 1) * PART_BYTES
        size = min(PART_BYTES, file.size_bytes - offset)
        if arrived.get(number) != size:
            pieces.append(Piece(digest, number, offset, size))
    return pieces


def bytes_of(files: Iterable[AnnouncedFile]) -> int:
    """Return the total bytes of files, each digest once."""
    return sum({file.digest: file.size_bytes for file in files}.values())
