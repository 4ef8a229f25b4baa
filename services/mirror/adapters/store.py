"""Registered versions in the object store."""

import asyncio
import re
from collections import defaultdict

from contracts.vocabulary import MODEL_NAME_PATTERN, ModelName
from decisions.version_history import VersionHistory
from services.mirror.domain.plan import fingerprint
from shared.errors import Permanent
from shared.provenance.envelopes import Trust
from shared.provenance.version_history import read_version_history
from shared.storage.blobs import Store

_ROOT = "versions/"
_MODEL = re.compile(MODEL_NAME_PATTERN)
_OF_VERSION = re.compile(r"(?P<version>[1-9][0-9]{0,8})/(?P<rest>.+)", re.ASCII)


class StoredVersions:
    """The versions in a store (implements `ports.Versions`)."""

    def __init__(self, store: Store, trust: Trust) -> None:
        self._store, self._trust = store, trust

    async def models(self) -> list[ModelName]:
        """Return the models that have a registered version."""
        names = (folder.removeprefix(_ROOT) for folder in await asyncio.to_thread(self._store.folders, _ROOT))
        return sorted(name for name in names if _MODEL.fullmatch(name))

    async def states(self, model: ModelName) -> dict[int, str]:
        """Return the fingerprint of each registered version: objects are only ever added to a version."""
        prefix = f"{_ROOT}{model}/"
        objects: dict[int, list[str]] = defaultdict(list)
        for key in await asyncio.to_thread(self._store.keys, prefix):
            match = _OF_VERSION.fullmatch(key.removeprefix(prefix))
            if match is not None:
                objects[int(match["version"])].append(match["rest"])
        return {version: fingerprint(keys) for version, keys in objects.items() if "manifest.json" in keys}

    async def history(self, model: ModelName, version: int) -> VersionHistory:
        """Return a version with its records."""
        keys = self._trust.keys()
        history = await asyncio.to_thread(read_version_history, self._store, keys, model, version)
        if history is None:
            raise Permanent("artifact_not_found", f"{model} has no version {version}.")
        return history
