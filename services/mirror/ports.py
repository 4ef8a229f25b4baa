"""Ports of the mirror: versions, their changes, and the external registries."""

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
    """A registry does not answer, or gives malformed answers: requests to it pause for a while."""

    def __init__(self, reason: str) -> None:
        super().__init__("hub_unavailable", reason)


class Refused(Transient):
    """A registry refuses a request about one model; other models are still mirrored."""

    def __init__(self, reason: str) -> None:
        super().__init__("hub_unavailable", reason)


class Versions(Protocol):
    """The store's registered versions."""

    async def models(self) -> list[ModelName]:
        """Return the models that have a registered version."""

    async def states(self, model: ModelName) -> dict[int, str]:
        """Return the fingerprint of each registered version of a model."""

    async def source(self, model: ModelName, version: int) -> str | None:
        """Return where the files of a version are, which never changes; None if its manifest cannot be read."""

    async def history(self, model: ModelName, version: int) -> VersionHistory:
        """Return a version with its records.

        Raises:
            Permanent: artifact_not_found; digest_mismatch if it is not what was registered.
        """


class Changes(Protocol):
    """The bus: the serving targets, and recent records."""

    async def route(self, model: ModelName) -> Route | None:
        """Return the serving targets of production."""

    async def declared(self) -> Mapping[str, Mirror]:
        """Return the mirrors that are declared, by the name of their registry."""

    async def changed(self) -> set[ModelName]:
        """Return the models about which something was recorded since the last call; none at the first."""


@dataclass(frozen=True)
class StoredFiles:
    """The files of a model in the store.

    Attributes:
        digest: Digest of the manifest that names them.
        files: Their names, digests and sizes.
        prefix: Key prefix of their blobs.
    """

    digest: str
    files: tuple[FileEntry, ...]
    prefix: str


class Weights(Protocol):
    """The weights of versions in the store. Synchronous: called in a thread."""

    def files(self, history: VersionHistory, *, merged: bool) -> StoredFiles:
        """Return the published files, or the files of the merged model.

        Raises:
            Permanent: artifact_not_found, digest_mismatch.
        """

    def fetch(self, files: StoredFiles, into: Path) -> None:
        """Download the files into a folder, each verified."""


class Registry(Protocol):
    """A registry that versions are mirrored into. Every call may be repeated, and may be cut off at any point."""

    @property
    def name(self) -> str:
        """Name in logs and metrics: `mlflow`."""

    async def mirrored(self, model: ModelName) -> list[Mirrored]:
        """Return the versions of a model that the registry has from here, of two copies the older first.

        Raises:
            Unavailable: It does not answer.
            Refused: It does not permit it, or has something else under this name.
        """

    async def put(self, history: VersionHistory, fingerprint: str, present: Mirrored | None) -> Mirrored:
        """Write or update a version so that it shows `history`; return it."""

    async def point(self, model: ModelName, aliases: Mapping[Alias, Mirrored]) -> None:
        """Make aliases name these versions; those that are not given name none."""


Registries = Sequence[Registry]
