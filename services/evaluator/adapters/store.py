"""Evaluation reports in the object store, attested."""

from contracts.manifests import EvaluationReport
from contracts.policy import ReleasePolicy
from contracts.vocabulary import ArtifactRef, Target
from shared.provenance.attested_reports import AttestedReports
from shared.provenance.envelopes import Attester, Trust
from shared.provenance.signed_versions import read_policy
from shared.provenance.version_history import read_evaluations
from shared.storage.blobs import Store


class StoredReports(AttestedReports[EvaluationReport]):
    """Evaluation reports, evaluation sets and signed policies in the store (implements `ports.Reports`)."""

    def __init__(self, store: Store, attester: Attester, trust: Trust) -> None:
        super().__init__(store, attester, trust, EvaluationReport, step="evaluate", kind="evaluation")

    def rows(self, ref: ArtifactRef) -> bytes:
        """Return a verified evaluation set."""
        return self._store.get_texts(ref)

    def policy(self, target: Target) -> ReleasePolicy | None:
        """Return a version's signed policy; None if it cannot be read."""
        signed = read_policy(self._store, self._trust, target.model, target.version)
        return None if isinstance(signed, str) else signed.policy

    def released(self, target: Target) -> EvaluationReport | None:
        """Return a target's last attested report; None if it was not evaluated."""
        reports = read_evaluations(self._store, self._trust.keys(), target.model, target.version)
        return next((report for report in reversed(reports) if report.target == target), None)
