"""The registry's artifacts in the S3 store, and a look at folders on disk where those are allowed."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from contracts.manifests import BaseManifest, DeploymentRecord, VersionManifest
from contracts.sources import scheme_of
from contracts.vocabulary import ArtifactRef, digest_of
from shared.storage.blobs import Store
from shared.storage.sources import DiskFolder

_READS = 32
"""Reads for admissions at once; what the registry writes has other threads."""


class StoredArtifacts:
    """Artifacts in the object store; the store is synchronous, so every call goes through a thread.

    A read that was given up continues in its thread. So the same read is not begun again while it lasts: another try
    waits for its answer.
    """

    def __init__(self, store: Store, file_roots: tuple[Path, ...] = ()) -> None:
        self._store = store
        self._roots = file_roots
        self._threads = ThreadPoolExecutor(_READS, thread_name_prefix="admission")
        self._reading: dict[str, Future[Any]] = {}

    async def _read(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
        reading = self._reading.get(what)
        if reading is None or reading.done():
            reading = self._reading[what] = self._threads.submit(contextvars.copy_context().run, call, *args)
        answer = asyncio.wrap_future(reading)
        answer.add_done_callback(lambda ended: self._ended(what, ended))
        return await asyncio.shield(answer)

    def _ended(self, what: str, answer: "asyncio.Future[Any]") -> None:
        if not answer.cancelled():
            answer.exception()  # of a try that was given up; it is not read otherwise
        reading = self._reading.get(what)
        if reading is not None and reading.done():
            del self._reading[what]

    async def find_base(self, key: str) -> BaseManifest | None:
        """Read the manifest of an imported base model; None when there is none."""
        data = await self._read(key, self._store.find, key)
        return None if data is None else BaseManifest.model_validate_json(data)

    async def verify(self, ref: ArtifactRef) -> None:
        """Raise Permanent unless the artifact may be used and, in the store, is what was announced.

        A folder on disk must be there, hold weights, and not lead outside the roots (artifact_not_found,
        pickle_refused, uri_not_allowed). Its bytes, and those of a folder in a model hub, are verified by the merger
        while it brings them into the store; the registry never asks a hub.
        """
        scheme = scheme_of(ref.uri)
        if scheme == "hf":
            return
        if scheme == "file":
            await self._read(ref.uri, DiskFolder, ref.uri, self._roots)
            return
        await self._read(ref.model_dump_json(), self._store.get, ref)

    async def put_version(self, manifest: VersionManifest) -> ArtifactRef:
        """Write the manifest of a version, create-only; return the ref of the one that exists then."""
        key = f"versions/{manifest.model}/{manifest.version}/manifest.json"
        ref, _created = await asyncio.to_thread(self._store.put_manifest, key, manifest)
        return ref

    async def put_deployment(self, record: DeploymentRecord) -> None:
        """Append a deployment record, create-only; one that exists stays as it is.

        A route that was lost or restored counts its epochs anew: a record of another cause and time under the same
        number is kept beside the first.
        """
        key = f"versions/{record.target.model}/{record.target.version}/deployments/{record.epoch}"
        _, created = await asyncio.to_thread(self._store.put_manifest, f"{key}.json", record)
        data = None if created else await asyncio.to_thread(self._store.find, f"{key}.json")
        first = None if data is None else DeploymentRecord.model_validate_json(data)
        if first is not None and first.cause_id != record.cause_id and first.deployed_at != record.deployed_at:
            cause = digest_of(record.cause_id.encode()).removeprefix("sha256:")[:12]
            await asyncio.to_thread(self._store.put_manifest, f"{key}-{cause}.json", record)

    async def check(self) -> None:
        """Raise when the store does not answer."""
        await asyncio.to_thread(self._store.reachable)
