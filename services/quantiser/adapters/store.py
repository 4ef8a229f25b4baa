"""Merged models and variants in the object store."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from contracts.manifests import FileEntry, HeldOutWindow, MergedManifest, VariantManifest
from contracts.provenance.attestations import Material
from contracts.vocabulary import ArtifactRef, digest_of
from shared.errors import Permanent
from shared.provenance.attestations import AttestedCommits
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.runtime.progress import ReportProgress
from shared.runtime.scratch_dirs import ScratchDirs
from shared.storage.blobs import Store
from shared.storage.held_out import put_held_out

VARIANT = "variant"
M = TypeVar("M", MergedManifest, VariantManifest)


class StoredArtifacts:
    """Artifacts in the store, with scratch folders on local disk (implements `ports.Artifacts`)."""

    def __init__(self, store: Store, work_dir: Path, attester: Attester, trust: Trust) -> None:
        self._store = store
        self._commits = AttestedCommits(store, attester, "quantise", trust)
        self.scratch_dirs = ScratchDirs(work_dir / "scratch")

    def open_merged(self, ref: ArtifactRef) -> MergedManifest:
        """Return a merged model's verified manifest.

        Raises:
            Permanent: `artifact_not_found`, `digest_mismatch` or `uri_not_allowed`.
        """
        try:
            return MergedManifest.model_validate_json(self._store.get(ref))
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"{ref.uri} is not the manifest of a merged model: {problem['loc']}: {problem['msg']}."
            raise Permanent("artifact_not_found", reason) from error

    def find_variant(self, merged: ArtifactRef, output_key: str) -> tuple[VariantManifest, ArtifactRef] | None:
        """Return the committed variant with this output key; None if there is none."""
        key = self._commits.key(VARIANT, output_key, self._store.prefix_of(merged))
        data = self._store.find(key)
        if data is None:
            return None
        ref = ArtifactRef(uri=self._store.uri(key), digest=digest_of(data), size_bytes=len(data))
        return VariantManifest.model_validate_json(data), ref

    def fetch(self, merged: ArtifactRef, files: Sequence[FileEntry], into: Path, progress: ReportProgress) -> None:
        """Download files of a merged model into a folder."""
        prefix = self._store.prefix_of(merged)
        self._store.fetch_files(files, into, prefix, lambda done, total: progress("download", done, total, "bytes"))

    def fetch_texts(self, ref: ArtifactRef, into: Path) -> Path:
        """Download a calibration or evaluation set (a JSONL file or a folder of them) as one file."""
        into.mkdir(parents=True, exist_ok=True)
        path = into / "texts.jsonl"
        path.write_bytes(self._store.get_texts(ref))
        return path

    def put(self, merged: ArtifactRef, folder: Path, progress: ReportProgress) -> tuple[FileEntry, ...]:
        """Upload a folder's files as blobs under the merged model's prefix; return their entries."""
        prefix = self._store.prefix_of(merged)
        manifest = self._store.put_folder(folder, prefix, lambda done, total: progress("upload", done, total, "bytes"))
        return manifest.files

    def put_held_out(self, merged: ArtifactRef, windows: tuple[HeldOutWindow, ...]) -> FileEntry | None:
        """Store a variant's held-out windows as a blob; return its entry, or None without windows."""
        return put_held_out(self._store, windows, self._store.prefix_of(merged))

    def commit(self, merged: ArtifactRef, manifest: VariantManifest) -> tuple[VariantManifest, ArtifactRef]:
        """Attest and write a manifest, create-only; return the stored one, which may be another replica's."""
        key = self._commits.key(VARIANT, manifest.output_key, self._store.prefix_of(merged))
        digests = {
            "merged": merged.digest,
            "calibration": manifest.calibration_digest,
            "evaluation": manifest.evaluation_digest,
            "held-out text": manifest.held_out_text.digest if manifest.held_out_text else None,
        }
        materials = tuple(Material(name=name, digest=digest) for name, digest in digests.items() if digest is not None)
        return self._commits.commit(key, manifest, Subjects(materials=materials))

    def scratch_dir(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Yield an empty folder for one job; it is removed afterwards."""
        return self.scratch_dirs.open(name)
