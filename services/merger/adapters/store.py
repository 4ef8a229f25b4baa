"""Base models, checkpoints and merged models in the object store."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pydantic import ValidationError

from contracts.facts import BaseModelRef
from contracts.manifests import BaseManifest, FolderManifest, MergedManifest
from contracts.provenance.attestations import Material
from contracts.storage.sources import scheme_of
from contracts.vocabulary import ArtifactRef, digest_of
from services.merger.ports import Folder
from shared.errors import Permanent
from shared.provenance.attestations import AttestedCommits
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.runtime.progress import ReportProgress
from shared.runtime.scratch_dirs import ScratchDirs
from shared.storage.blobs import Store, blob_key
from shared.storage.sources import Sources, bring

MERGED = "merged"


class StoredArtifacts:
    """Artifacts in the store, with scratch folders on local disk (implements `ports.Artifacts`)."""

    def __init__(self, store: Store, work_dir: Path, sources: Sources, attester: Attester, trust: Trust) -> None:
        self._store = store
        self._commits = AttestedCommits(store, attester, "merge", trust)
        self._sources = sources
        self._scratch_root = work_dir / "scratch"
        self.scratch_dirs = ScratchDirs(self._scratch_root)

    def find_merged(self, output_key: str) -> tuple[MergedManifest, ArtifactRef] | None:
        """Return the committed merged model with this output key; None if there is none."""
        key = self._commits.key(MERGED, output_key)
        data = self._store.find(key)
        if data is None:
            return None
        ref = ArtifactRef(uri=self._store.uri(key), digest=digest_of(data), size_bytes=len(data))
        return MergedManifest.model_validate_json(data), ref

    def open_base(self, base: BaseModelRef) -> Folder:
        """Return a base model's files.

        `base.uri` names the manifest of the base's folder, or of its import.

        Raises:
            Permanent: `unknown_base` if it does not exist, `base_mismatch` if its digest is not the declared one.
        """
        data = self._store.find(self._store.key_of(base.uri))
        if data is None:
            raise Permanent("unknown_base", f"{base.uri} does not exist in the store.")
        imported = _parse_import(data)
        if imported is None:
            return _parse_folder(data, digest_of(data), self._prefix(base.uri))
        if imported.folder.digest != base.digest:
            reason = f"{base.uri} has the digest {imported.folder.digest}; the checkpoint was trained on {base.digest}."
            raise Permanent("base_mismatch", reason, found=imported.folder.digest, declared=base.digest)
        return self.open_folder(imported.folder)

    def open_folder(self, ref: ArtifactRef, progress: ReportProgress | None = None) -> Folder:
        """Return a folder's files.

        A folder outside the store (`hf://`, `file://`) is first copied into it, once per digest.

        Raises:
            Permanent: The folder does not exist, has another digest, or exceeds the quota (`too_large`).
        """

        def report(done: float, total: float) -> None:
            if progress is not None:
                progress("import", done, total, "bytes")

        if scheme_of(ref.uri) is not None:
            ref = bring(self._store, self._sources, ref, self._scratch_root, report)
        folder = _parse_folder(self._store.get(ref), ref.digest, self._prefix(ref.uri))
        self._sources.quota.check(ref.uri, len(folder.files), sum(file.size_bytes for file in folder.files))
        return folder

    def read_texts(self, folder: Folder, names: Sequence[str]) -> Mapping[str, str]:
        """Return the texts of the named files that exist; invalid UTF-8 is replaced.

        Raises:
            Permanent: `artifact_not_found` if a file is missing in the store or too large; `digest_mismatch`.
        """
        return {
            file.path: self._store.get(
                ArtifactRef(
                    uri=self._store.uri(blob_key(file.digest, folder.prefix)),
                    digest=file.digest,
                    size_bytes=file.size_bytes,
                )
            ).decode(errors="replace")
            for file in folder.files
            if file.path in names
        }

    def _prefix(self, uri: str) -> str:
        return self._store.key_of(uri).partition("manifests/")[0]

    def commit(self, manifest: MergedManifest) -> tuple[MergedManifest, ArtifactRef]:
        """Attest and write a manifest, create-only; return the stored one, which may be another replica's."""
        materials = [
            Material(name="base", digest=manifest.base.digest, uri=manifest.base.uri),
            Material(name=manifest.weights.kind, digest=manifest.weights.ref.digest, uri=manifest.weights.ref.uri),
        ]
        if manifest.settings_of is not None:
            materials.append(Material(name="merged", digest=manifest.settings_of.digest, uri=manifest.settings_of.uri))
        about = Subjects(materials=tuple(materials))
        return self._commits.commit(self._commits.key(MERGED, manifest.output_key), manifest, about)

    def scratch_dir(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Yield an empty folder for one job; it is removed afterwards."""
        return self.scratch_dirs.open(name)


def _parse_import(data: bytes) -> BaseManifest | None:
    try:
        return BaseManifest.model_validate_json(data)
    except ValidationError:
        return None


def _parse_folder(data: bytes, digest: str, prefix: str) -> Folder:
    try:
        manifest = FolderManifest.model_validate_json(data)
    except ValidationError as error:
        reason = f"{digest} is not the manifest of a folder: {error.errors()[0]['msg']}."
        raise Permanent("artifact_not_found", reason) from error
    return Folder(digest, manifest.files, prefix)
