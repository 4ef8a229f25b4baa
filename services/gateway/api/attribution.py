"""Attributes the failure of a request to one of the parties: caller, target, infrastructure or gateway."""

from decisions.evidence.attribution import ATTRIBUTION, COMPARED, PROVABLE
from services.gateway.api.answer import Answer
from services.gateway.api.measurement import AcceptedRequest, Outcome
from services.gateway.dependencies import Dependencies
from services.gateway.domain.records import REJECTED, AnswerFailed


def attribute_failure(
    dependencies: Dependencies, answer: Answer, accepted: AcceptedRequest, failure: AnswerFailed
) -> Outcome:
    """Return the outcome of a failed request that no other version answered.

    What the fallback failed as well (`Answer.other_failed`) is the caller's doing; where the fallback died of it,
    nothing is known. One that was silent or out of reach says nothing: then the target failed, as without a fallback.
    A target that was silent while it sent pieces of other answers was overloaded: the cause is the infrastructure.
    """
    kind, served = failure.kind, accepted.choice.served
    if failure.silent_s is not None and dependencies.checks.is_busy(served.target, answer.endpoint, failure.silent_s):
        return Outcome(error=kind, caused_by="infrastructure")
    if kind == "endpoint_unreachable" and dependencies.balancer.is_loaded_nowhere(served):
        kind = "not_loaded"
    if answer.engine_died and kind in COMPARED:
        kind = "engine_dead"  # at one endpoint, whatever another made of it
    is_callers = answer.other_failed in PROVABLE
    if kind in REJECTED or (kind == "template_failed" and is_callers):
        return Outcome(caused_by="caller")
    if is_callers or answer.other_failed == "engine_dead":
        return Outcome(error=kind, caused_by="caller" if is_callers else "infrastructure")
    return Outcome(error=kind, caused_by=ATTRIBUTION[kind])
