"""Attributes the failure of a request to one of the parties, and tries it on the fallback before its first token.

A second try is a service, and no evidence: the failure is recorded and counts as before. What killed an engine, met a
silent or overloaded one, or was sent to one version on purpose is never tried elsewhere. Both budgets are per minute:
past them failures are answered as failures.
"""

from dataclasses import dataclass, field
from typing import Literal

from contracts.routes import ServedTarget
from decisions.evidence.attribution import ATTRIBUTION, COMPARED, PROVABLE
from services.gateway.api.answer import Answer
from services.gateway.api.measurement import AcceptedRequest, Outcome
from services.gateway.dependencies import Dependencies
from services.gateway.domain import pairing
from services.gateway.domain.records import REJECTED, AnswerFailed
from services.gateway.domain.request_rates import Allowance
from shared.runtime.clock import Clock

Result = Literal["answered", "failed", "over_budget"]
"""What became of a request that the fallback may answer: answered there, failed there, too, or not tried."""
HEADER = "x-slipway-rescued"
"""Names the target that failed the request; `x-slipway-version` names the one that answered."""
_MOST_CALLERS = 1_000


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
    return own and unseen and pairing.may_mirror(accepted.parsed, accepted.choice.served, fallback)


@dataclass
class RescueBudgets:
    """What is left of the second tries of one process, in all and for each caller.

    Attributes:
        per_minute: most tries per minute; 0 for none.
        per_caller: most tries of one caller per minute.
        workers: processes that the two are divided among, at least one try each.
    """

    clock: Clock
    per_minute: int
    per_caller: int
    workers: int = 1
    _all: Allowance | None = None
    _callers: dict[str, Allowance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take this process's part."""
        self.per_minute, self.per_caller = (
            max(1, most // self.workers) if most else 0 for most in (self.per_minute, self.per_caller)
        )

    def admit(self, account: str) -> bool:
        """Take one try of a caller; return False, taking nothing, if one of the budgets is used up."""
        if self.per_minute == 0 or self.per_caller == 0:
            return False
        now_s = self.clock.monotonic()
        total = self._all or Allowance.filled(self.per_minute, now_s)
        own = self._callers.get(account) or Allowance.filled(self.per_caller, now_s)
        if total.available(now_s) < 1 or own.available(now_s) < 1:
            return False
        if len(self._callers) >= _MOST_CALLERS:
            full = self.per_caller
            self._callers = {name: left for name, left in self._callers.items() if left.available(now_s) < full}
        self._all, self._callers[account] = total.take(1, now_s), own.take(1, now_s)
        return True


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
