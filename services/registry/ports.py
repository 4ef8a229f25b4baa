"""The registry's ports: what it needs from bus and store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel

from contracts.attachments import Attachment
from contracts.envelope import Event
from contracts.facts import CheckpointReady, EvalResult, ReleaseOpened
from contracts.facts.ops import RecordKind
from contracts.manifests import ApprovalRecord, BaseManifest, DeploymentRecord, VersionManifest
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.storage.uploads import UploadPermit
from contracts.teams import Team
from contracts.vocabulary import ArtifactRef
from services.registry.domain.announcements import Announcements
from services.registry.domain.record import Release
from services.registry.domain.uploads import Piece, StoredFile
from services.registry.domain.versions import ModelRecord, StoredVersions
from shared.messaging.records import RecordStore
from shared.storage.kv import Bucket, Entry

M = TypeVar("M", bound=BaseModel)
ErasedText = Literal["held-out", "evaluation"]


class Lookup(Protocol[M]):
    """Read access to records of other services."""

    async def get(self, key: str) -> Entry[M] | None:
        """Return a record; None if there is none."""


class Artifacts(Protocol):
    """The registry's artifacts in the object store."""

    async def find_base(self, key: str) -> BaseManifest | None:
        """Return the manifest of an imported base model; None if there is none."""

    async def verify(self, ref: ArtifactRef) -> None:
        """Raise Permanent unless the artifact may be used and its stored bytes match the announcement."""

    async def sizes(self, model: str) -> Mapping[str, int]:
        """Return the bytes stored for a model's checkpoints, merged models and variants, by digest or object key."""

    async def models(self) -> Sequence[str]:
        """Return the models that have versions."""

    async def versions_of(self, model: str, releases: int = 16) -> StoredVersions:
        """Return a model's stored versions, with the releases of the newest `releases` versions."""

    async def find_figures(self, model: str, version: int) -> tuple[EvalResult, ...] | None:
        """Return the evaluation figures that the publisher stated for a version; None without a signed manifest."""

    async def put_version(self, manifest: VersionManifest) -> ArtifactRef:
        """Write a version's manifest, create-only; return the ref of the stored one."""

    async def put_approval(self, record: ApprovalRecord) -> None:
        """Append an approval to the version's attestations; no change if it is there."""

    async def erase_text(self, model: str, version: int, kind: ErasedText) -> tuple[str, ...]:
        """Erase text that a version was measured on; return the digests of all files erased so far.

        Raises:
            Permanent: `artifact_not_found` if there is no such version.
        """

    async def put_deployment(self, record: DeploymentRecord) -> None:
        """Append a deployment record, create-only; an existing record stays unchanged."""


class Inbox(Protocol):
    """The streams of announcements and of opened releases."""

    async def last_opened(self, model: str) -> ReleaseOpened | None:
        """Return the model's newest `release.opened` in the event log; None if there is none."""

    async def read(self, sequence: int) -> Event[CheckpointReady] | None:
        """Return the announcement with this sequence number; None if it is missing or was removed."""


class UploadStore(Protocol):
    """Uploads of publishers in the store. Its methods block: call them in threads."""

    def uri(self, key: str) -> str:
        """Return the URI of a key."""

    def find_file(self, key: str) -> StoredFile | None:
        """Return an object's size, version and ETag; None if it does not exist."""

    def permit(self, key: str, file: str, piece: Piece, upload: str | None = None) -> UploadPermit:
        """Return the permit to upload a file or a part of one."""

    def open_upload(self, key: str) -> tuple[str, Mapping[int, int]]:
        """Return an object's multipart upload ID and the sizes of its arrived parts by number."""

    def complete(self, key: str, upload: str, digests: Sequence[str]) -> None:
        """Complete a multipart upload whose parts have these digests; an existing object stays unchanged."""

    def digest_of(self, key: str, version: str | None) -> str:
        """Read an object and return its digest; `version` None reads the current version."""

    def remove(self, key: str) -> None:
        """Remove an object."""

    def put_manifest(self, key: str, manifest: bytes) -> tuple[ArtifactRef, bool]:
        """Write a manifest, create-only; return the stored one's ref and whether it was created now."""

    def abort_unfinished(self) -> None:
        """Abort old multipart uploads that were never completed."""

    def find_base(self, name_and_revision: str) -> BaseManifest | None:
        """Return an imported base model by `NAME` or `NAME@REVISION`; None if there is none."""

    def base_names(self) -> list[str]:
        """Return the distinct names of the imported base models."""


@dataclass(frozen=True)
class Ports:
    """The registry's connections to bus and store.

    Attributes:
        releases: Records of releases, by `release_key`.
        models: Records of models, by `model_key`.
        announcements: Records of announced checkpoints, by `announcements_key`.
        policies: Stored policies, by model.
        routes: Production routes, by model.
        teams: Returns the current teams.
        attachments: Attached servers, by model.
        ordered: Buckets that administrators' orders write, by kind of record.
    """

    releases: RecordStore[Release]
    models: RecordStore[ModelRecord]
    announcements: RecordStore[Announcements]
    inbox: Inbox
    policies: Lookup[ReleasePolicy]
    routes: Lookup[Route]
    artifacts: Artifacts
    attachments: Lookup[Attachment]
    teams: Callable[[], tuple[Team, ...]] = tuple
    ordered: Mapping[RecordKind, Bucket[Any]] = field(default_factory=dict)


def release_key(model: str, release_id: str) -> str:
    """Return the key of a release's record."""
    return f"{model}.{release_id}"


def model_key(model: str) -> str:
    """Return the key of a model's record, in the bucket of its releases."""
    return f"{model}.model"


def announcements_key(model: str) -> str:
    """Return the key of a model's record of announcements, in the bucket of its releases."""
    return f"{model}.announcements"
