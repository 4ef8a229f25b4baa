"""Uploads of checkpoints: a publisher's request, and the registry's answer with signed URLs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from ..codes import Code
from ..facts import BaseModelRef
from ..manifests import FileEntry
from ..vocabulary import ArtifactRef, Contract, Digest

UPLOADS: Final = "slipway.upload.v1"
"""Subject of requests: `<prefix>.<model>.<publisher>`; the registry answers, no stream stores them."""
PART_BYTES: Final = 64 * 1024**2
"""Size of the parts of larger files; the last part may be smaller."""
MOST_PARTS: Final = 10_000
MOST_FILES: Final = 1_000


class AnnouncedFile(FileEntry):
    """A file to upload.

    Attributes:
        parts: Digests of its parts if it is larger than `PART_BYTES`.
    """

    parts: Annotated[tuple[Digest, ...], Field(max_length=MOST_PARTS)] = ()

    @model_validator(mode="after")
    def _has_its_parts(self) -> AnnouncedFile:
        expected = -(-self.size_bytes // PART_BYTES) if self.size_bytes > PART_BYTES else 0
        if len(self.parts) != expected:
            size = f"{self.path} has {self.size_bytes} bytes"
            raise ValueError(f"{size}: {expected} digests of parts are needed, not {len(self.parts)}")
        return self


class UploadRequest(Contract):
    """The files that a publisher uploads; the request is repeated until all are stored.

    Attributes:
        folder: Whether the files form a checkpoint's folder, to be stored with a manifest.
        base: Base model to return the reference of: NAME, or NAME@REVISION.
    """

    files: Annotated[tuple[AnnouncedFile, ...], Field(max_length=MOST_FILES)] = ()
    folder: bool = False
    base: Annotated[str, Field(max_length=512)] | None = None

    @model_validator(mode="after")
    def _names_each_file_once(self) -> UploadRequest:
        names = [file.path for file in self.files]
        if len(set(names)) != len(names) or (self.folder and not names):
            raise ValueError("a folder has at least one file, and each path once")
        return self


class UploadPermit(Contract):
    """A permitted PUT of a part of a file to the store, with these headers.

    Attributes:
        offset: Begin of the part in the file.
        url: Signed URL, valid once for a short time.
    """

    digest: Digest
    offset: Annotated[int, Field(ge=0)] = 0
    size_bytes: Annotated[int, Field(ge=0)]
    url: str
    headers: dict[str, str] = {}


class UploadAnswer(Contract):
    """The progress of the upload.

    Attributes:
        state: `missing`: use the permits, then repeat the request. `verifying`: repeat it. `stored`: complete.
            `refused`: failed with `code`. `later`: the store does not answer; repeat the request.
        stored_bytes: Bytes in the store.
        files: The stored files in the order of the request.
        folder: Manifest of the folder.
        architecture: Architecture of the base model by its configuration.
    """

    state: Literal["missing", "verifying", "stored", "refused", "later"]
    permits: tuple[UploadPermit, ...] = ()
    stored_bytes: int = 0
    files: tuple[ArtifactRef, ...] = ()
    folder: ArtifactRef | None = None
    base: BaseModelRef | None = None
    architecture: str | None = None
    code: Code | None = None
    reason: str = ""
