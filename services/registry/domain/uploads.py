"""The files that a publisher may upload, and their missing bytes. Pure."""

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
"""Permits in one answer: 4 GiB in parts, which are on their way before the permits expire."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that one request uploads; number 0 is a whole file, others are parts of it."""

    digest: str
    number: int
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class StoredFile:
    """A file that is in the store, as it is now.

    Attributes:
        size_bytes: Its bytes.
        version: Which version of the object it is; None where the bucket keeps none.
        tag: The store's tag of the content, which is another one for other bytes.
    """

    size_bytes: int
    version: str | None
    tag: str


def parse_subject(subject: str, reply: str) -> tuple[str, str] | None:
    """Return the model and the publisher of a request; None if it is not one that an answer may be sent to.

    The bus compared the subject with the identity that published. A stored message that was copied here keeps its own
    subject. The answer goes to an inbox of the publisher only: else it could be led to any subject.
    """
    tokens = subject.split(".")
    if len(tokens) != 5 or ".".join(tokens[:3]) != UPLOADS:
        return None
    model, publisher = tokens[3:]
    if re.fullmatch(MODEL_NAME_PATTERN, model) is None:  # it becomes a part of keys of the store
        return None
    return (model, publisher) if reply.startswith(f"_INBOX_{publisher}.") else None


def assess_request(request: UploadRequest) -> Refusal | None:
    """Refuse files that no checkpoint has (pickles, cards, what lies in folders within), and contents of two sizes."""
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
    """Refuse an upload that exceeds the quota of stored bytes of the team that owns its model."""
    reason = find_excess_upload(team, sum(stored.values()), needed) if team is not None else None
    return Refusal("team_quota_exceeded", reason, {"needed": needed}) if reason else None


def upload_prefix(model: str, publisher: str) -> str:
    """Return where a publisher's files of a model are stored: the registry permits it no other keys."""
    return f"checkpoints/{model}/uploads/{publisher}-files/"


def blob_key(model: str, publisher: str, digest: str) -> str:
    """Return where a file is stored."""
    return f"{upload_prefix(model, publisher)}blobs/sha256/{digest[7:9]}/{digest[7:]}"


def folder_key(model: str, publisher: str, digest: str) -> str:
    """Return where the manifest of a folder is stored."""
    return f"{upload_prefix(model, publisher)}manifests/folder/{digest.removeprefix('sha256:')}.json"


def whole(file: AnnouncedFile) -> Piece:
    """Return a file that is uploaded by one request."""
    return Piece(file.digest, 0, 0, file.size_bytes)


def missing_parts(file: AnnouncedFile, arrived: Mapping[int, int]) -> list[Piece]:
    """Return the missing parts of a file with their sizes, given the sizes that arrived by number."""
    pieces = []
    for number, digest in enumerate(file.parts, 1):
        offset = (number - 1) * PART_BYTES
        size = min(PART_BYTES, file.size_bytes - offset)
        if arrived.get(number) != size:
            pieces.append(Piece(digest, number, offset, size))
    return pieces


def bytes_of(files: Iterable[AnnouncedFile]) -> int:
    """Return the bytes of files that have different contents."""
    return sum({file.digest: file.size_bytes for file in files}.values())
