"""Evaluation reports in the object store, attested."""

from contracts.manifests import EvaluationReport
from contracts.policy import ReleasePolicy
from contracts.vocabulary import ArtifactRef, Target
from shared.provenance.attestations import AttestedCommits, Chain
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.provenance.signed_policies import read_policy
from shared.provenance.version_history import read_evaluations
from shared.storage.blobs import Store
from shared.storage.text_sets import read_text_set

KIND = "evaluation"


class StoredReports:
    """Reports committed create-only under their output key (`ports.Reports`)."""

    def __init__(self, store: Store, attester: Attester, trust: Trust) -> None:
        self._store, self._attester, self._trust = store, attester, trust
        self._commits = AttestedCommits(store, attester, "evaluate", trust)

    def find(self, output_key: str) -> tuple[EvaluationReport, ArtifactRef] | None:
        """Return the committed report of an output key; None if there is none."""
        key = self._commits.key(KIND, output_key)
        if self._store.find(key) is None:
            return None
        ref = self._store.ref_to(key)
        report = self.read(ref)
        self._link(report, ref)
        return report, ref

    def read(self, ref: ArtifactRef) -> EvaluationReport:
        """Return a report, verified."""
        return EvaluationReport.model_validate_json(self._store.get(ref))

    def commit(self, report: EvaluationReport) -> tuple[EvaluationReport, ArtifactRef]:
        """Attest and write a report, create-only; return the committed one, which is in the chain of its version."""
        committed, ref = self._commits.commit(self._commits.key(KIND, report.output_key), report)
        self._link(committed, ref)
        return committed, ref

    def _link(self, report: EvaluationReport, ref: ArtifactRef) -> None:
        """Append a report to the chain of its version, unless this evaluator's key did not attest it."""
        if self._commits.has_attested(ref):
            chain = Chain(self._store, report.target.model, report.target.version)
            details = {"target": str(report.target), "baseline": str(report.baseline), "verdict": report.verdict}
            chain.append(self._attester, "evaluate", Subjects(named={ref.uri: ref.digest}), details)

    def rows(self, ref: ArtifactRef) -> bytes:
        """Return an evaluation set, verified."""
        return read_text_set(self._store, ref)

    def policy(self, target: Target) -> ReleasePolicy | None:
        """Return the policy that is signed with a version; None if it cannot be read."""
        signed = read_policy(self._store, self._trust, target.model, target.version)
        return None if isinstance(signed, str) else signed.policy

    def released(self, target: Target) -> EvaluationReport | None:
        """Return the last attested report of a target; None if it was not evaluated."""
        reports = read_evaluations(self._store, self._trust.keys(), target.model, target.version)
        return next((report for report in reversed(reports) if report.target == target), None)
