"""Ports of the registry."""

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
    """Records that others write."""

    async def get(self, key: str) -> Entry[M] | None:
        """Return a record; None if there is none."""


class Artifacts(Protocol):
    """The object store, as far as the registry reads and writes it."""

    async def find_base(self, key: str) -> BaseManifest | None:
        """Return the manifest of an imported base model; None if there is none."""

    async def verify(self, ref: ArtifactRef) -> None:
        """Raise Permanent unless the artifact may be used and, in the store, is what was announced."""

    async def sizes(self, model: str) -> Mapping[str, int]:
        """Return the bytes stored for a model, by digest or key: checkpoints, merged models, variants."""

    async def models(self) -> Sequence[str]:
        """Return the models that have versions."""

    async def versions_of(self, model: str, releases: int = 16) -> StoredVersions:
        """Return the stored versions of a model, with the releases of the newest ones."""

    async def find_figures(self, model: str, version: int) -> tuple[EvalResult, ...] | None:
        """Return the publisher's statements about a version; None without a signed manifest."""

    async def put_version(self, manifest: VersionManifest) -> ArtifactRef:
        """Write the manifest of a version, create-only; return the ref of the one that exists then."""

    async def put_approval(self, record: ApprovalRecord) -> None:
        """Append an approval to the version's attestations, once; nothing happens if it is there."""

    async def erase_text(self, model: str, version: int, kind: ErasedText) -> tuple[str, ...]:
        """Erase text that a version was measured on; return the digests of erased blobs, also earlier ones.

        Raises:
            Permanent: `artifact_not_found` if there is no such version.
        """

    async def put_deployment(self, record: DeploymentRecord) -> None:
        """Append a deployment record, create-only; an existing record stays unchanged."""


class Inbox(Protocol):
    """The streams that announcements arrive in, and that releases are opened in."""

    async def last_opened(self, model: str) -> ReleaseOpened | None:
        """Return the last release of a model that the event log has; None if it has none."""

    async def read(self, sequence: int) -> Event[CheckpointReady] | None:
        """Return the announcement with this sequence; None if it is not there (any more)."""


class UploadStore(Protocol):
    """Files of publishers in the store. Its methods block: they are called in threads."""

    def uri(self, key: str) -> str:
        """Return the URI of a key."""

    def find_file(self, key: str) -> StoredFile | None:
        """Return the size, version and tag of an object; None if there is none."""

    def permit(self, key: str, file: str, piece: Piece, upload: str | None = None) -> UploadPermit:
        """Return the permit to upload a file, or a part of it."""

    def open_upload(self, key: str) -> tuple[str, Mapping[int, int]]:
        """Return the upload in parts of an object, and the bytes of the parts that arrived, by number."""

    def complete(self, key: str, upload: str, digests: Sequence[str]) -> None:
        """Complete a multipart upload whose parts have these digests; an existing object stays as it is."""

    def digest_of(self, key: str, version: str | None) -> str:
        """Read an object version and return its digest; `version` None reads the current one."""

    def remove(self, key: str) -> None:
        """Remove an object."""

    def put_manifest(self, key: str, manifest: bytes) -> tuple[ArtifactRef, bool]:
        """Write a manifest, create-only: its ref and True, or the ref of the one that is there and False."""

    def abort_unfinished(self) -> None:
        """Remove the parts of uploads that began long ago and became no file."""

    def find_base(self, name_and_revision: str) -> BaseManifest | None:
        """Return an imported base model by `NAME` or `NAME@REVISION`; None if there is none."""

    def base_names(self) -> list[str]:
        """Return the names of the imported base models, each once."""


@dataclass(frozen=True)
class Ports:
    """Everything around the registry.

    Attributes:
        releases: Records of releases, by `release_key`.
        models: Records of models, by `model_key`.
        announcements: Records of announced checkpoints, by `announcements_key`.
        policies: Stored policies, by model.
        routes: Production routes, by model.
        teams: Returns the teams as they are now.
        attachments: Attached servers, by model.
        ordered: The buckets that are written as administrators order.
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
    """Return the key of a model's record, in the same bucket as its releases."""
    return f"{model}.model"


def announcements_key(model: str) -> str:
    """Return the key of the record of a model's announcements, in the same bucket as its releases."""
    return f"{model}.announcements"
