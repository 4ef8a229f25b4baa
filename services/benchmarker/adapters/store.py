"""Benchmark reports in the object store, attested."""

from pydantic import ValidationError

from contracts.manifests import BenchmarkReport, HeldOutWindow, VariantManifest
from contracts.vocabulary import ArtifactRef
from shared.provenance.attested_reports import AttestedReports
from shared.provenance.envelopes import Attester, Trust
from shared.storage.blobs import Store
from shared.storage.held_out import read_held_out


class StoredReports(AttestedReports[BenchmarkReport]):
    """Benchmark reports, held-out windows and evaluation sets in the store (implements `ports.Reports`)."""

    def __init__(self, store: Store, attester: Attester, trust: Trust) -> None:
        super().__init__(store, attester, trust, BenchmarkReport, step="benchmark", kind="benchmark")

    def held_out(self, manifest: ArtifactRef) -> tuple[HeldOutWindow, ...]:
        """Return a variant's held-out windows; empty for a base model.

        Raises:
            Permanent: `artifact_not_found` if manifest or text are gone, `digest_mismatch`.
        """
        variant = self._variant(manifest)
        return read_held_out(self._store, manifest, variant) if variant else ()

    def _variant(self, manifest: ArtifactRef) -> VariantManifest | None:
        data = self._store.get(manifest)
        try:
            return VariantManifest.model_validate_json(data)
        except ValidationError:
            return None

    def evaluation(self, ref: ArtifactRef) -> bytes:
        """Return a verified evaluation set."""
        return self._store.get_texts(ref)
