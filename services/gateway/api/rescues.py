"""Attributes the failure of a request to one of the parties, and tries it on the fallback before its first token.

A second try is a service, and no evidence: the failure is recorded and counts as before. What killed an engine, met a
silent or overloaded one, or was sent to one version on purpose is never tried elsewhere. Both budgets are per minute:
past them failures are answered as failures.
"""

from typing import Literal

from contracts.routes import ServedTarget
from decisions.evidence.attribution import ATTRIBUTION, COMPARED, PROVABLE
from services.gateway.api.answer import Answer
from services.gateway.api.measurement import AcceptedRequest, Outcome
from services.gateway.dependencies import Dependencies
from services.gateway.domain import routing
from services.gateway.domain.records import REJECTED, AnswerFailed

Result = Literal["answered", "failed", "over_budget"]
"""What became of a request that the fallback may answer: answered there, failed there, too, or not tried."""
HEADER = "x-slipway-rescued"
"""Names the target that failed the request; `x-slipway-version` names the one that answered."""


def may_rescue(accepted: AcceptedRequest, answer: Answer, failure: AnswerFailed, fallback: ServedTarget) -> bool:
    """Return whether a failed request may be tried on the fallback.

    Only if the engine itself failed or refused it before the first token: not what a drill failed, so that it is seen,
    not what is too long for the target, where the fallback takes longer prompts, and not what an engine died of.
    """
    by_drill = accepted.effect is not None and accepted.effect.fails
    is_longer = failure.kind == "bad_request" and fallback.context_tokens > accepted.choice.served.context_tokens
    own = failure.kind in PROVABLE and not is_longer and not (failure.is_callers or by_drill or answer.engine_died)
    own = own and not accepted.is_suspect
    unseen = answer.measurement.output_tokens == 0
    return own and unseen and routing.may_mirror(accepted.parsed, accepted.choice.served, fallback)


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
