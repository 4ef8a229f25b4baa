"""Reports about a staged target: committed once for each output key, attested, and in the chain of the version."""

from typing import Generic, TypeVar

from contracts.manifests import BenchmarkReport, EvaluationReport
from contracts.provenance.steps import Step
from contracts.vocabulary import ArtifactRef
from shared.provenance.attestations import AttestedCommits, Chain
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.storage.blobs import Store

R = TypeVar("R", BenchmarkReport, EvaluationReport)


class AttestedReports(Generic[R]):
    """The attested reports of one service.

    Args:
        report: the type of the reports.
        kind: first part of their keys.
    """

    def __init__(
        self, store: Store, attester: Attester, trust: Trust, report: type[R], *, step: Step, kind: str
    ) -> None:
        self._store, self._attester, self._trust = store, attester, trust
        self._step, self._kind = step, kind
        self._report: type[R] = report
        self._commits = AttestedCommits(store, attester, step, trust)

    def find(self, output_key: str) -> tuple[R, ArtifactRef] | None:
        """Return the committed report of an output key; None if there is none."""
        key = self._commits.key(self._kind, output_key)
        if self._store.find(key) is None:
            return None
        ref = self._store.ref_to(key)
        return self._linked(self.read(ref), ref)

    def read(self, ref: ArtifactRef) -> R:
        """Return a report, verified."""
        return self._report.model_validate_json(self._store.get(ref))

    def commit(self, report: R) -> tuple[R, ArtifactRef]:
        """Attest, write (create-only) and chain a report; return the committed one."""
        return self._linked(*self._commits.commit(self._commits.key(self._kind, report.output_key), report))

    def _linked(self, report: R, ref: ArtifactRef) -> tuple[R, ArtifactRef]:
        """Append a report to the chain of its version, unless this service's key did not attest it."""
        if self._commits.has_attested(ref):
            chain = Chain(self._store, report.target.model, report.target.version)
            details = {"target": str(report.target), "baseline": str(report.baseline), "verdict": report.verdict}
            chain.append(self._attester, self._step, Subjects(named={ref.uri: ref.digest}), details)
        return report, ref
