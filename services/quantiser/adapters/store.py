"""Merged models and variants in the object store, and a work folder on the local disk."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pydantic import ValidationError

from contracts.manifests import FileEntry, MergedManifest, VariantManifest
from contracts.vocabulary import ArtifactRef, digest_of
from services.quantiser.ports import Progress
from shared.errors import Permanent
from shared.runtime.scratch_dirs import Workrooms
from shared.storage.blobs import Store, manifest_key
from shared.storage.text_sets import read_text_set

VARIANT = "variant"


class StoredArtifacts:
    """The store, and a work folder of this service on the local disk."""

    def __init__(self, store: Store, work_dir: Path) -> None:
        self._store = store
        self.rooms = Workrooms(work_dir / "rooms")

    def open_merged(self, ref: ArtifactRef) -> MergedManifest:
        """Read a merged model's manifest, verified.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
        """
        try:
            return MergedManifest.model_validate_json(self._store.get(ref))
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"{ref.uri} is no manifest of a merged model: {problem['loc']}: {problem['msg']}."
            raise Permanent("artifact_not_found", reason) from error

    def open_variant(self, ref: ArtifactRef) -> VariantManifest:
        """Read a variant's manifest, verified.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
        """
        try:
            return VariantManifest.model_validate_json(self._store.get(ref))
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"{ref.uri} is no manifest of a variant: {problem['loc']}: {problem['msg']}."
            raise Permanent("artifact_not_found", reason) from error

    def find_variant(self, merged: ArtifactRef, output_key: str) -> tuple[VariantManifest, ArtifactRef] | None:
        """Return the committed output of an earlier run, if there is one."""
        key = manifest_key(VARIANT, output_key, self._store.prefix_of(merged))
        data = self._store.find(key)
        if data is None:
            return None
        ref = ArtifactRef(uri=self._store.uri(key), digest=digest_of(data), size_bytes=len(data))
        return VariantManifest.model_validate_json(data), ref

    def fetch(self, merged: ArtifactRef, files: Sequence[FileEntry], into: Path, progress: Progress) -> None:
        """Download files of a merged model into a folder."""
        prefix = self._store.prefix_of(merged)
        self._store.fetch_files(files, into, prefix, lambda done, total: progress("download", done, total, "bytes"))

    def fetch_texts(self, ref: ArtifactRef, into: Path) -> Path:
        """Download a calibration or evaluation set, one JSONL file or a folder of them, into one file."""
        into.mkdir(parents=True, exist_ok=True)
        path = into / "texts.jsonl"
        path.write_bytes(read_text_set(self._store, ref))
        return path

    def put(self, merged: ArtifactRef, folder: Path, progress: Progress) -> tuple[FileEntry, ...]:
        """Upload the files of a folder as blobs, beside those of the merged model."""
        prefix = self._store.prefix_of(merged)
        manifest = self._store.put_folder(folder, prefix, lambda done, total: progress("upload", done, total, "bytes"))
        return manifest.files

    def commit(self, merged: ArtifactRef, manifest: VariantManifest) -> tuple[VariantManifest, ArtifactRef]:
        """Write the manifest, create-only; give the one that is there in the end (a replica may have been first)."""
        key = manifest_key(VARIANT, manifest.output_key, self._store.prefix_of(merged))
        ref, written = self._store.put_manifest(key, manifest)
        if written:
            return manifest, ref
        return VariantManifest.model_validate_json(self._store.get(ref)), ref

    def workshop(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Return an empty folder for one piece of work, gone afterwards."""
        return self.rooms.open(name)
