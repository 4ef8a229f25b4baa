"""Histories of versions, for cards and registries."""

from datetime import UTC, datetime

from contracts.evaluations.results import EvaluationResult
from contracts.facts import RegisteredVariant, RehearsalCompleted, VariantBenchmarked
from contracts.manifests import (
    ApprovalRecord,
    BenchmarkReport,
    DeploymentRecord,
    EvaluationReport,
    RehearsalRecord,
    VersionManifest,
)
from contracts.provenance.steps import RequiredAttestations
from contracts.vocabulary import Target
from decisions.releases.version_history import VersionHistory
from testbed import factories
from testbed.values import evaluation

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)


def manifest(model=factories.MODEL, version=3, **changes):
    fields = {
        "model": model,
        "version": version,
        "release_id": f"{model}-{version}",
        "release_key": factories.digest("key"),
        "base": factories.base(),
        "weights": factories.weights(),
        "training": factories.training(),
        "evals": factories.evals(),
        "merged": factories.ref("merged"),
        "variants": (
            RegisteredVariant(
                variant="int8",
                manifest=factories.ref("int8"),
                weights_bytes=135_000_000,
                size_ratio=0.51,
                quality=factories.quality(),
            ),
        ),
        "policy_digest": factories.digest("policy"),
        "policy": {},
        "attestations": RequiredAttestations(),
        "registered_at": AT,
    }
    return VersionManifest(**{**fields, **changes})


def report(model=factories.MODEL, version=3, variant="int8", **changes):
    fields = {
        "output_key": factories.digest("report"),
        "target": Target(model=model, version=version, variant=variant),
        "baseline": Target(model=model, version=1, variant=variant),
        "attempt": 1,
        "hardware": {},
        "load": factories.policy().load,
        "candidate_summary": factories.side(version),
        "baseline_summary": factories.side(1),
        "ratios": (),
        "quality": None,
        "gates": factories.fact(VariantBenchmarked).gates,
        "verdict": "pass",
        "started_at": AT,
        "duration_s": 1.0,
        "requests": (),
    }
    return BenchmarkReport(**{**fields, **changes})


def evaluation_report(model=factories.MODEL, version=3, **changes):
    """Return the report of one evaluation; `changes` are of its scores of all rows."""
    result = evaluation()
    scores = tuple(score.model_copy(update=changes) for score in result.scores)
    return EvaluationReport(
        output_key=factories.digest("evaluation"),
        target=Target(model=model, version=version, variant="int8"),
        baseline=Target(model=model, version=1, variant="int8"),
        attempt=1,
        results=(EvaluationResult(**{**dict(result), "scores": scores}),),
        verdict="pass",
        reason="",
        started_at=AT,
        duration_s=1.0,
    )


def rehearsal(model=factories.MODEL, version=3):
    target = Target(model=model, version=version, variant="int8")
    completed = factories.fact(RehearsalCompleted, variant="int8", verdict="pass")
    return RehearsalRecord(target=target, manifest_digest=factories.digest("int8"), completed=completed)


def approval(model=factories.MODEL, version=3, **changes):
    fields = {
        "target": Target(model=model, version=version, variant="int8"),
        "manifest_digest": factories.digest("int8"),
        "release_id": "r",
        "approved_by": "anna",
        "order_id": "o",
        "approved_at": AT,
    }
    return ApprovalRecord(**{**fields, **changes})


def deployment(model=factories.MODEL, version=3, epoch=1, **changes):
    fields = {
        "target": Target(model=model, version=version, variant="int8"),
        "epoch": epoch,
        "cause": "promote",
        "cause_id": f"c{epoch}",
        "weight_ratio": 1.0,
        "deployed_at": AT,
    }
    return DeploymentRecord(**{**fields, **changes})


def history(model=factories.MODEL, version=3, **changes):
    """Return a history with one of everything; `changes` are of the manifest."""
    return VersionHistory(
        manifest=manifest(model, version, **changes),
        digest=factories.digest("manifest"),
        benchmarks=(report(model, version),),
        evaluations=(evaluation_report(model, version),),
        rehearsals=(rehearsal(model, version),),
        approvals=(approval(model, version),),
        deployments=(deployment(model, version),),
    )
