"""Registered versions and their weights in the object store."""

import asyncio
import re
from collections import defaultdict
from pathlib import Path

from pydantic import ValidationError

from contracts.manifests import FolderManifest, MergedManifest, VersionManifest
from contracts.storage.sources import scheme_of
from contracts.vocabulary import MODEL_NAME_PATTERN, ModelName
from decisions.releases.version_history import VersionHistory
from services.mirror.domain.plan import fingerprint
from services.mirror.ports import StoredFiles
from shared.errors import Permanent
from shared.provenance.envelopes import Trust
from shared.provenance.version_history import read_version_history
from shared.storage.blobs import SOURCES, Store, manifest_key

_ROOT = "versions/"
_MODEL = re.compile(MODEL_NAME_PATTERN)
_OF_VERSION = re.compile(r"(?P<version>[1-9][0-9]{0,8})/(?P<rest>.+)", re.ASCII)


class StoredVersions:
    """Registered versions in the store (implements `ports.Versions`)."""

    def __init__(self, store: Store, trust: Trust) -> None:
        self._store, self._trust = store, trust

    async def models(self) -> list[ModelName]:
        """Return the models with registered versions."""
        names = (folder.removeprefix(_ROOT) for folder in await asyncio.to_thread(self._store.folders, _ROOT))
        return sorted(name for name in names if _MODEL.fullmatch(name))

    async def states(self, model: ModelName) -> dict[int, str]:
        """Return each registered version's fingerprint; versions only ever gain objects."""
        prefix = f"{_ROOT}{model}/"
        objects: dict[int, list[str]] = defaultdict(list)
        for key in await asyncio.to_thread(self._store.keys, prefix):
            match = _OF_VERSION.fullmatch(key.removeprefix(prefix))
            if match is not None:
                objects[int(match["version"])].append(match["rest"])
        return {version: fingerprint(keys) for version, keys in objects.items() if "manifest.json" in keys}

    async def source(self, model: ModelName, version: int) -> str | None:
        """Return the URI of a version's merged model; None if its manifest is unreadable."""
        data = await asyncio.to_thread(self._store.find, f"{_ROOT}{model}/{version}/manifest.json")
        try:
            return None if data is None else VersionManifest.model_validate_json(data).merged.uri
        except ValidationError:
            return None

    async def history(self, model: ModelName, version: int) -> VersionHistory:
        """Return a version with its records."""
        keys = self._trust.keys()
        history = await asyncio.to_thread(read_version_history, self._store, keys, model, version)
        if history is None:
            raise Permanent("artifact_not_found", f"{model} has no version {version}.")
        return history


class StoredWeights:
    """Weights of versions in the store (implements `ports.Weights`)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def files(self, history: VersionHistory, *, merged: bool) -> StoredFiles:
        """Return the published weights files, or the merged model's."""
        ref = history.manifest.merged if merged else history.manifest.weights.ref
        if scheme_of(ref.uri) is not None:  # external weights, which the merger copied under their digest
            ref = self._store.ref_to(manifest_key("folder", ref.digest, SOURCES))
        kind = MergedManifest if merged else FolderManifest
        data = self._store.get(ref)
        try:
            files = kind.model_validate_json(data).files
        except ValidationError as error:
            raise Permanent("digest_mismatch", f"{ref.uri} is no {kind.__name__}.") from error
        return StoredFiles(ref.digest, files, self._store.prefix_of(ref))

    def fetch(self, files: StoredFiles, into: Path) -> None:
        """Download files into a folder and verify each."""
        self._store.fetch_files(files.files, into, files.prefix)
