"""Benchmark reports in the object store."""

from pydantic import ValidationError

from contracts.facts import Measurement
from contracts.manifests import BenchmarkReport, HeldOutWindow, VariantManifest
from contracts.vocabulary import ArtifactRef
from shared.storage.blobs import Store, manifest_key
from shared.storage.held_out import read_held_out
from shared.storage.text_sets import read_text_set

KIND = "benchmark"


class StoredReports:
    """Reports committed create-only under their output key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        """Return the committed report of an output key; None if there is none."""
        key = manifest_key(KIND, output_key)
        if self._store.find(key) is None:
            return None
        ref = self._store.ref_to(key)
        return BenchmarkReport.model_validate_json(self._store.get(ref)), ref

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        """Write a report, create-only, and return the committed one."""
        return self._store.commit(manifest_key(KIND, report.output_key), report)

    def held_out(self, manifest: ArtifactRef) -> tuple[HeldOutWindow, ...]:
        """Return the windows that a variant was measured on; empty for the manifest of a base model.

        Raises:
            Permanent: `artifact_not_found` if manifest or text do not exist any more, `digest_mismatch`.
        """
        variant = self._variant(manifest)
        return read_held_out(self._store, manifest, variant) if variant else ()

    def measurement(self, manifest: ArtifactRef) -> Measurement | None:
        """Return how a variant's quality was measured; None for the manifest of a base model."""
        variant = self._variant(manifest)
        return variant.measurement if variant else None

    def _variant(self, manifest: ArtifactRef) -> VariantManifest | None:
        data = self._store.get(manifest)
        try:
            return VariantManifest.model_validate_json(data)
        except ValidationError:
            return None

    def evaluation(self, ref: ArtifactRef) -> bytes:
        """Return an evaluation set, verified."""
        return read_text_set(self._store, ref)
