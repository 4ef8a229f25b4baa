"""Decides how a failed request ended: which error it was, and who caused it."""

from decisions.attribution import ATTRIBUTION, PROVABLE, as_error_kind
from services.gateway.answer import AcceptedRequest, Answer, Outcome
from services.gateway.cross_checks import FailedRequest
from services.gateway.dependencies import Dependencies
from shared.errors import SlipwayError


async def attribute_failure(
    dependencies: Dependencies, answer: Answer, accepted: AcceptedRequest, failure: SlipwayError
) -> Outcome:
    """Return the outcome of a failed request; cross-checks decide who caused it if the request may be the cause.

    A target that also fails the probe prompt is the cause, even if it reports a bad request; so is a target that fails
    a request which the fallback answers (see `CrossChecks.attribute`). A target that was silent while it sent pieces of
    other answers was overloaded: the cause is the infrastructure.
    """
    kind, effect = as_error_kind(failure.code), accepted.effect
    served = accepted.choice.served
    silent_s = failure.details.get("silent_s")
    if silent_s is not None and dependencies.cross_checks.is_busy(served.target, answer.endpoint, silent_s):
        return Outcome(error=kind, caused_by="infrastructure")
    if kind not in PROVABLE or (effect is not None and effect.fails):
        return Outcome(error=kind, caused_by=ATTRIBUTION[kind])
    failed = FailedRequest(
        served,
        answer.endpoint,
        accepted.prompt,
        accepted.sampling,
        tokens=answer.usage.output_tokens,
        rejected=kind == "bad_request",
    )
    fallback = dependencies.find_fallback(accepted.environment, served.target)
    party = await dependencies.cross_checks.attribute(failed, fallback)
    if party == "infrastructure":
        dependencies.metrics.unattributed.labels(str(served.target)).inc()
    if party == "target":
        return Outcome(error="engine_failed", caused_by="target")
    return Outcome(caused_by="caller") if failed.rejected else Outcome(error=kind, caused_by=party)
