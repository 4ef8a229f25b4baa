"""The registry's artifacts in the S3 store (and, where allowed, on disk)."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from contracts.manifests import BaseManifest, DeploymentRecord, VersionManifest
from contracts.vocabulary import ArtifactRef, digest_of
from shared.blobs import Store
from shared.errors import Permanent


class StoredArtifacts:
    """Artifacts in the object store; the store is synchronous, so every call goes through a thread."""

    def __init__(self, store: Store, file_roots: tuple[Path, ...] = ()) -> None:
        self._store = store
        self._roots = tuple(root.resolve() for root in file_roots)

    async def find_base(self, key: str) -> BaseManifest | None:
        """Read the manifest of an imported base model; None when there is none."""
        data = await asyncio.to_thread(self._store.find, key)
        return None if data is None else BaseManifest.model_validate_json(data)

    async def verify(self, ref: ArtifactRef) -> None:
        """Raise Permanent `artifact_not_found` or `digest_mismatch` unless the artifact is what was announced."""
        read = self._read_file if ref.uri.startswith("file:") else self._store.get
        data = await asyncio.to_thread(read, ref)
        if len(data) != ref.size_bytes:
            raise Permanent(
                "digest_mismatch", f"{ref.uri} has {len(data)} bytes, announced were {ref.size_bytes}."
            )  # fmt: skip

    def _read_file(self, ref: ArtifactRef) -> bytes:
        path = Path(urlsplit(ref.uri).path).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise Permanent("uri_not_allowed", f"{ref.uri} leads outside the allowed roots.")
        if not path.is_file():
            raise Permanent("artifact_not_found", f"{ref.uri} does not exist.")
        data = path.read_bytes()
        if digest_of(data) != ref.digest:
            raise Permanent("digest_mismatch", f"{ref.uri} is {digest_of(data)}, announced as {ref.digest}.")
        return data

    async def put_version(self, manifest: VersionManifest) -> ArtifactRef:
        """Write the manifest of a version, create-only; give the ref of the one that exists then."""
        key = f"versions/{manifest.model}/{manifest.version}/manifest.json"
        ref, _created = await asyncio.to_thread(self._store.put_manifest, key, manifest)
        return ref

    async def put_deployment(self, record: DeploymentRecord) -> None:
        """Append a deployment record, create-only; one that exists stays as it is."""
        key = f"versions/{record.target.model}/{record.target.version}/deployments/{record.epoch}.json"
        await asyncio.to_thread(self._store.put_manifest, key, record)

    async def check(self) -> None:
        """Raise when the store does not answer."""
        await asyncio.to_thread(self._store.reachable)
