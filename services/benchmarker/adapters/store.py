"""Benchmark reports in the object store, attested."""

from pydantic import ValidationError

from contracts.facts import Measurement
from contracts.manifests import BenchmarkReport, HeldOutWindow, VariantManifest
from contracts.vocabulary import ArtifactRef
from shared.provenance.attestations import AttestedCommits, Chain
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.storage.blobs import Store
from shared.storage.held_out import read_held_out
from shared.storage.text_sets import read_text_set

KIND = "benchmark"


class StoredReports:
    """Reports committed create-only under their output key."""

    def __init__(self, store: Store, attester: Attester, trust: Trust) -> None:
        self._store, self._attester = store, attester
        self._commits = AttestedCommits(store, attester, "benchmark", trust)

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        """Return the committed report of an output key; None if there is none."""
        key = self._commits.key(KIND, output_key)
        if self._store.find(key) is None:
            return None
        ref = self._store.ref_to(key)
        report = BenchmarkReport.model_validate_json(self._store.get(ref))
        self._link(report, ref)
        return report, ref

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        """Attest and write a report, create-only; return the committed one, which is in the chain of its version."""
        committed, ref = self._commits.commit(self._commits.key(KIND, report.output_key), report)
        self._link(committed, ref)
        return committed, ref

    def _link(self, report: BenchmarkReport, ref: ArtifactRef) -> None:
        """Append a report to the chain of its version, unless this benchmarker's key did not attest it."""
        if self._commits.has_attested(ref):
            chain = Chain(self._store, report.target.model, report.target.version)
            details = {"target": str(report.target), "baseline": str(report.baseline), "verdict": report.verdict}
            chain.append(self._attester, "benchmark", Subjects(named={ref.uri: ref.digest}), details)

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
