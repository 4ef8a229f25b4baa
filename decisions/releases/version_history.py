"""A version and everything that was recorded about it, as cards, registries and people are shown it."""

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
    """A version with its records; benchmarks, evaluations, rehearsals and approvals only as far as they are attested.

    Attributes:
        manifest: The version's manifest.
        digest: Digest of the manifest.
        benchmarks: Reports, in the order of their attestations.
        rehearsals: Records of rehearsals, in the order of their attestations.
        approvals: Records of approvals, in the order of their attestations.
        deployments: Records of deployments, oldest first.
        problem: Why later attestations are left out; empty if none are.
        evaluations: Reports, in the order of their attestations.
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
        """Return the name that people use: `support-bot@v3`."""
        return f"{self.manifest.model}@v{self.manifest.version}"

    def latest_benchmarks(self) -> Iterator[tuple[RegisteredVariant, BenchmarkReport]]:
        """Return each variant that was benchmarked, with its last report."""
        last = {report.target.variant: report for report in self.benchmarks}
        return ((variant, last[variant.variant]) for variant in self.manifest.variants if variant.variant in last)

    def latest_rehearsals(self) -> dict[Variant, RehearsalRecord]:
        """Return the last rehearsal of each variant."""
        return {record.target.variant: record for record in self.rehearsals}

    def latest_results(self) -> Iterator[tuple[EvaluationReport, EvaluationResult]]:
        """Return each evaluation of the last report, with that report."""
        return ((report, result) for report in self.evaluations[-1:] for result in report.results)


def weakest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the least good of some verdicts; inconclusive if there are none."""
    given = set(verdicts)
    return next((verdict for verdict in FAILING_FIRST if verdict in given), "inconclusive")
