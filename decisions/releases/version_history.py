"""A version with its records, for model cards and mirrors."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contracts.evaluations.results import EvaluationResult
from contracts.facts import RegisteredVariant
from contracts.manifests import (
    ApprovalRecord,
    BenchmarkReport,
    DeploymentRecord,
    EvaluationReport,
    RehearsalRecord,
    VersionManifest,
)
from contracts.vocabulary import Variant, Verdict

FAILING_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class VersionHistory:
    """A version with its deployments, and its attested benchmarks, rehearsals, approvals and evaluations in order.

    Attributes:
        digest: Digest of the manifest.
        problem: Why later attestations are left out; empty if none are.
    """

    manifest: VersionManifest
    digest: str
    benchmarks: tuple[BenchmarkReport, ...] = ()
    rehearsals: tuple[RehearsalRecord, ...] = ()
    approvals: tuple[ApprovalRecord, ...] = ()
    deployments: tuple[DeploymentRecord, ...] = ()
    problem: str = ""
    evaluations: tuple[EvaluationReport, ...] = ()

    @property
    def name(self) -> str:
        """Return the display name: `support-bot@v3`."""
        return f"{self.manifest.model}@v{self.manifest.version}"

    def latest_benchmarks(self) -> Iterator[tuple[RegisteredVariant, BenchmarkReport]]:
        """Return each benchmarked variant with its last report."""
        last = {report.target.variant: report for report in self.benchmarks}
        return ((variant, last[variant.variant]) for variant in self.manifest.variants if variant.variant in last)

    def latest_rehearsals(self) -> dict[Variant, RehearsalRecord]:
        """Return the last rehearsal of each variant."""
        return {record.target.variant: record for record in self.rehearsals}

    def latest_results(self) -> Iterator[tuple[EvaluationReport, EvaluationResult]]:
        """Return the last report with each of its evaluations."""
        return ((report, result) for report in self.evaluations[-1:] for result in report.results)


def weakest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst verdict; inconclusive without any."""
    given = set(verdicts)
    return next((verdict for verdict in FAILING_FIRST if verdict in given), "inconclusive")
