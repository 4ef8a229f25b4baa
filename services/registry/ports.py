"""What the registry needs from outside."""

from datetime import datetime
from typing import Protocol, TypeVar

from pydantic import BaseModel

from contracts.envelope import Event
from contracts.facts import CheckpointReady
from contracts.manifests import BaseManifest, DeploymentRecord, VersionManifest
from contracts.vocabulary import ArtifactRef
from shared.messaging.bus import Emit
from shared.storage.kv import Entry

M = TypeVar("M", bound=BaseModel)


class Records(Protocol[M]):
    """Records under compare-and-set."""

    async def get(self, key: str) -> Entry[M] | None:
        """Read a record; None when there is none."""

    async def create(self, key: str, value: M) -> int:
        """Write a record that must not exist yet; raise `shared.storage.kv.Conflict` when it does."""

    async def update(self, key: str, value: M, revision: int) -> int:
        """Write a record that must still be at `revision`; raise `shared.storage.kv.Conflict` when it is not."""

    async def keys(self) -> list[str]:
        """List all keys."""


class Artifacts(Protocol):
    """The object store, as far as the registry reads and writes it."""

    async def find_base(self, key: str) -> BaseManifest | None:
        """Read the manifest of an imported base model; None when there is none."""

    async def verify(self, ref: ArtifactRef) -> None:
        """Raise Permanent unless the artifact may be used and, in the store, is what was announced."""

    async def put_version(self, manifest: VersionManifest) -> ArtifactRef:
        """Write the manifest of a version, create-only; give the ref of the one that exists then."""

    async def put_deployment(self, record: DeploymentRecord) -> None:
        """Append a deployment record, create-only; one that exists stays as it is."""


class Inbox(Protocol):
    """The stream that announcements arrive in."""

    async def read(self, sequence: int) -> Event[CheckpointReady] | None:
        """Return the announcement with this sequence; None if it is not there (any more)."""


class Publisher(Protocol):
    """Says facts on the bus."""

    async def publish(self, emit: Emit) -> object:
        """Publish a fact and return once the stream has it; raise Transient when it has not."""

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the stream has this very fact already, decided at `since`, however long ago that was."""
