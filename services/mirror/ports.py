"""The mirror's ports: versions, their changes, and external registries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contracts.manifests import FileEntry
from contracts.mirrors import Mirror
from contracts.routes import Route
from contracts.vocabulary import ModelName
from decisions.releases.version_history import VersionHistory
from services.mirror.domain.plan import Alias, Mirrored
from shared.errors import Transient


class Unavailable(Transient):
    """A registry does not answer, or gives malformed answers; requests to it pause."""

    def __init__(self, reason: str) -> None:
        super().__init__("hub_unavailable", reason)


class Refused(Transient):
    """A registry refuses a request about one model; other models continue."""

    def __init__(self, reason: str) -> None:
        super().__init__("hub_unavailable", reason)


class Versions(Protocol):
    """Registered versions in the store."""

    async def models(self) -> list[ModelName]:
        """Return the models with registered versions."""

    async def states(self, model: ModelName) -> dict[int, str]:
        """Return the fingerprint of each registered version of a model."""

    async def source(self, model: ModelName, version: int) -> str | None:
        """Return the URI of a version's files, which never changes; None if the manifest is unreadable."""

    async def history(self, model: ModelName, version: int) -> VersionHistory:
        """Return a version with its records.

        Raises:
            Permanent: `artifact_not_found`; `digest_mismatch` if it is not what was registered.
        """


class Changes(Protocol):
    """The bus: routes, declared mirrors, and recent facts."""

    async def route(self, model: ModelName) -> Route | None:
        """Return a model's production route; None if there is none."""

    async def declared(self) -> Mapping[str, Mirror]:
        """Return the declared mirrors by registry."""

    async def changed(self) -> set[ModelName]:
        """Return the models with new facts since the last call; none at the first."""


@dataclass(frozen=True)
class StoredFiles:
    """A model's files in the store.

    Attributes:
        digest: Digest of their manifest.
        files: Names, digests and sizes.
        prefix: Key prefix of their blobs.
    """

    digest: str
    files: tuple[FileEntry, ...]
    prefix: str


class Weights(Protocol):
    """Weights of versions in the store. Synchronous: call in a thread."""

    def files(self, history: VersionHistory, *, merged: bool) -> StoredFiles:
        """Return the published weights files, or the merged model's.

        Raises:
            Permanent: `artifact_not_found`, `digest_mismatch`.
        """

    def fetch(self, files: StoredFiles, into: Path) -> None:
        """Download files into a folder and verify each."""


class Registry(Protocol):
    """An external registry. Each call may be repeated, and interrupted at any point."""

    @property
    def name(self) -> str:
        """Name in logs and metrics, such as `mlflow`."""

    async def mirrored(self, model: ModelName) -> list[Mirrored]:
        """Return a model's versions that Slipway wrote to the registry, older copies first.

        Raises:
            Unavailable: The registry does not answer.
            Refused: The registry denies access, or has something else under this name.
        """

    async def put(self, history: VersionHistory, fingerprint: str, present: Mirrored | None) -> Mirrored:
        """Write or update a version's copy to match `history`; return it."""

    async def point(self, model: ModelName, aliases: Mapping[Alias, Mirrored]) -> None:
        """Set aliases to these versions; remove aliases that are not given."""


Registries = Sequence[Registry]
