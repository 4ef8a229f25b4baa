"""Verdict on the evaluations that a release must pass before it takes traffic."""

from contracts.codes import Code
from contracts.vocabulary import Variant, Verdict
from decisions.releases.plan import needs_evaluation
from services.registry.domain import gates
from services.registry.domain.record import Release


def failure_key(variant: Variant) -> str:
    """Return the failure key of a variant's evaluation step."""
    return f"{variant}:evaluate"


def assess_evaluations(release: Release) -> tuple[Verdict, Code, str] | None:
    """Return the evaluation verdict on the chosen variant, with code and reason; None while awaited.

    An evaluation without a result is inconclusive, never a pass.
    """
    chosen = gates.choose(release)
    if chosen is None:
        return None
    if not needs_evaluation(release.policy):
        return "pass", "not_applicable", "The policy declares no evaluation."
    failed, fact = release.failed.get(failure_key(chosen.variant)), release.evaluated
    if failed is not None:
        return "fail", failed.code, failed.reason
    if fact is None or fact.target.variant != chosen.variant:
        return None
    shown = {result.name for result in fact.results}
    missing = [evaluation.name for evaluation in release.policy.evaluations.sets if evaluation.name not in shown]
    if missing and fact.verdict != "fail":
        return "inconclusive", "inconclusive", f"no result of {', '.join(missing)}"
    return fact.verdict, "evaluation_failed" if fact.verdict == "fail" else "inconclusive", fact.reason
