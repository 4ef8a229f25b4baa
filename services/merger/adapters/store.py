"""Base models, checkpoints and merged models in the object store."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pydantic import ValidationError

from contracts.facts import BaseModelRef
from contracts.manifests import BaseManifest, FolderManifest, MergedManifest
from contracts.sources import scheme_of
from contracts.vocabulary import ArtifactRef, digest_of
from services.merger.ports import Folder, Progress
from shared.errors import Permanent
from shared.runtime.scratch_dirs import Workrooms
from shared.storage.blobs import Store, manifest_key
from shared.storage.sources import Sources, bring

MERGED = "merged"


class StoredArtifacts:
    """The store, and a work folder of this service on the local disk."""

    def __init__(self, store: Store, work_dir: Path, sources: Sources) -> None:
        self._store = store
        self._sources = sources
        self._rooms = work_dir / "rooms"
        self.rooms = Workrooms(self._rooms)

    def find_merged(self, output_key: str) -> tuple[MergedManifest, ArtifactRef] | None:
        """Return the committed output of an earlier run, if there is one."""
        key = manifest_key(MERGED, output_key)
        data = self._store.find(key)
        if data is None:
            return None
        ref = ArtifactRef(uri=self._store.uri(key), digest=digest_of(data), size_bytes=len(data))
        return MergedManifest.model_validate_json(data), ref

    def open_base(self, base: BaseModelRef) -> Folder:
        """Read what files a base model has.

        The reference names the folder's own manifest, or the record of the import, which names the folder.

        Raises:
            Permanent: `unknown_base` when it is not there, `base_mismatch` when it is another one.
        """
        data = self._store.find(self._store.key_of(base.uri))
        if data is None:
            raise Permanent("unknown_base", f"{base.uri} does not exist.")
        imported = _as_import(data)
        if imported is None:
            return _folder(data, digest_of(data), self._prefix(base.uri))
        if imported.folder.digest != base.digest:
            reason = f"{base.uri} is {imported.folder.digest}, the checkpoint was trained on {base.digest}."
            raise Permanent("base_mismatch", reason, found=imported.folder.digest, declared=base.digest)
        return self.open_folder(imported.folder)

    def open_folder(self, ref: ArtifactRef, progress: Progress | None = None) -> Folder:
        """Read what files a folder has; Permanent when it is not there, or not what was announced.

        A folder outside the store (`hf://`, `file://`) is brought into it first, once for each digest.

        Raises:
            Permanent: also `too_large` beyond the quota of folders.
        """

        def told(done: float, total: float) -> None:
            if progress is not None:
                progress("import", done, total, "bytes")

        if scheme_of(ref.uri) is not None:
            ref = bring(self._store, self._sources, ref, self._rooms, told)
        folder = _folder(self._store.get(ref), ref.digest, self._prefix(ref.uri))
        self._sources.quota.check(ref.uri, len(folder.files), sum(file.size_bytes for file in folder.files))
        return folder

    def _prefix(self, uri: str) -> str:
        return self._store.key_of(uri).partition("manifests/")[0]

    def commit(self, manifest: MergedManifest) -> tuple[MergedManifest, ArtifactRef]:
        """Write the manifest, create-only; give the one that is there in the end (a replica may have been first)."""
        ref, written = self._store.put_manifest(manifest_key(MERGED, manifest.output_key), manifest)
        if written:
            return manifest, ref
        return MergedManifest.model_validate_json(self._store.get(ref)), ref

    def workshop(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Return an empty folder for one piece of work, gone afterwards."""
        return self.rooms.open(name)


def _as_import(data: bytes) -> BaseManifest | None:
    try:
        return BaseManifest.model_validate_json(data)
    except ValidationError:
        return None


def _folder(data: bytes, digest: str, prefix: str) -> Folder:
    try:
        manifest = FolderManifest.model_validate_json(data)
    except ValidationError as error:
        reason = f"{digest} is no manifest of a folder: {error.errors()[0]['msg']}."
        raise Permanent("artifact_not_found", reason) from error
    return Folder(digest, manifest.files, prefix)
