"""Attributes the failure of a request to one of the parties: caller, target, infrastructure or gateway."""

from dataclasses import replace

from decisions.attribution import ATTRIBUTION, COMPARED, PROVABLE
from services.gateway.answer import Answer
from services.gateway.cross_checks import REQUEST_ID, FailedRequest
from services.gateway.dependencies import Dependencies
from services.gateway.domain.failures import REJECTED, AnswerFailed
from services.gateway.domain.routing import Choice
from services.gateway.measurement import AcceptedRequest, Outcome

_TEMPLATE = frozenset({"template_failed", "template_refused"})


async def attribute_failure(
    dependencies: Dependencies, answer: Answer, accepted: AcceptedRequest, failure: AnswerFailed
) -> Outcome:
    """Return the outcome of a failed request; cross-checks decide who caused it if the request may be the cause.

    A target that also fails the probe is the cause, even if it reports a bad request; so is a target that fails a
    request which the fallback answers (see `CrossChecks.attribute`). A target that was silent while it sent pieces of
    other answers was overloaded: the cause is the infrastructure. One that is loaded nowhere for a while is the cause.
    """
    kind, effect = failure.kind, accepted.effect
    served = accepted.choice.served
    if failure.silent_s is not None and dependencies.cross_checks.is_busy(
        served.target, answer.endpoint, failure.silent_s
    ):
        return Outcome(error=kind, caused_by="infrastructure")
    if kind == "endpoint_unreachable" and dependencies.balancer.is_loaded_nowhere(served):
        kind = "not_loaded"
    if answer.engine_died and kind in COMPARED:
        kind = "engine_dead"  # at one endpoint, whatever another made of it
    if kind in REJECTED and (failure.is_callers or accepted.parsed.names_tokens or not accepted.parsed.computes):
        return Outcome(caused_by="caller")  # what another model can do shows nothing about this one
    if kind not in PROVABLE or (effect is not None and effect.fails) or not accepted.parsed.computes:
        return Outcome(error=kind, caused_by=ATTRIBUTION[kind])
    failed = FailedRequest(
        served,
        answer.endpoint,
        replace(accepted.to_api_request(0.0), request_id=REQUEST_ID),
        kind,
        lambda other: dependencies.bans.watch(replace(accepted, choice=Choice(other), is_callers=False)),
        tokens=answer.measurement.output_tokens,
        request_kind=accepted.parsed.kind,
    )
    fallback = dependencies.find_fallback(accepted.environment, served.target)
    if answer.engine_died or answer.other_died:
        failed.deaths.append(served.target if answer.engine_died or fallback is None else fallback.target)
    behind = dependencies.balancer.choose(fallback, accepted.draw_id, accepted.parsed.kind) if fallback else ""
    party = await dependencies.cross_checks.attribute(failed, fallback, behind)
    answer.other_died |= bool(failed.deaths)
    if party == "infrastructure":
        dependencies.metrics.count_unattributed(served.target)
    if party == "target":
        return Outcome(error="template_failed" if kind in _TEMPLATE else "engine_failed", caused_by="target")
    if kind in REJECTED or (kind == "template_failed" and party == "caller"):
        return Outcome(caused_by="caller")
    return Outcome(error=kind, caused_by=party)
