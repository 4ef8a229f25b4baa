"""Uploads of checkpoints: the publisher's request to the registry, and the URLs that it gets."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from ..codes import Code
from ..facts import BaseModelRef
from ..manifests import FileEntry
from ..vocabulary import ArtifactRef, Contract, Digest

UPLOADS: Final = "slipway.upload.v1"
"""Subjects of requests are this, the model and the publisher. No stream stores them; the registry answers."""
PART_BYTES: Final = 64 * 1024**2
"""A larger file is uploaded in parts of this size; the last one may be smaller."""
MOST_PARTS: Final = 10_000
MOST_FILES: Final = 1_000


class AnnouncedFile(FileEntry):
    """A file that is to be uploaded.

    Attributes:
        parts: Digests of its parts, if it is larger than one.
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
    """The files that a publisher uploads. The request is repeated until all are stored; the answer lists missing ones.

    Attributes:
        files: The files, each with its exact size and digest.
        folder: Whether they are a checkpoint's folder, of which a manifest is written; else each is of its own.
        base: Base model whose reference is asked for: NAME, or NAME@REVISION.
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
    """One request that may be sent to the store: PUT of these bytes of a file, with these headers.

    Attributes:
        offset: Where in the file they begin.
        url: With the signature; it counts for a short time, and once.
    """

    digest: Digest
    offset: Annotated[int, Field(ge=0)] = 0
    size_bytes: Annotated[int, Field(ge=0)]
    url: str
    headers: dict[str, str] = {}


class UploadAnswer(Contract):
    """The progress of the upload.

    Attributes:
        state: `missing`: use the permits, then ask again. `verifying`: ask again. `stored`: all is there. `refused`:
            never, for `code`. `later`: the store does not answer; ask again.
        stored_bytes: Bytes that are in the store.
        files: Where each file is stored, in the order of the request.
        folder: The manifest of the folder.
        architecture: That of the base, as its configuration names it.
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
