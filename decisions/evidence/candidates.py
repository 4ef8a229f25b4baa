"""The evidence of a trigger about a candidate: its blocks, and the active version's in the same seconds.

Requests are counted twice: of all callers, and without the caller with most requests to the candidate when the last
block closed (`decisions.evidence.version_tests`).
"""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import Field

from contracts.policy import Trigger
from contracts.vocabulary import Contract
from decisions.evidence.block_tests import BLOCK_S, Block, Closed, Count, OpenBlocks, add_to_blocks, close_blocks
from decisions.evidence.triggers import Outcome, limit_of
from decisions.evidence.version_tests import (
    AGAINST,
    FEW_CALLERS,
    MOST_KEYS,
    CandidateTest,
    CandidateVerdict,
    ShareTest,
    count_blocks_to_pass,
    decide_candidate,
    observe_alone,
    observe_candidate,
)
from decisions.routes.edits import AWAY

AWAY_S = int(AWAY.total_seconds()) - 10
"""Seconds of observation without the candidate: `AWAY` without ten seconds for requests in flight."""
ALONE_S = 1200
"""Seconds after which that observation expires, because the load may have changed."""
_LARGEST_LOG = 690.0
"""Cap of log e-values, so that e-values are JSON numbers."""


class Beside(Contract):
    """The open blocks of a candidate and of the active version, and the evidence of closed blocks."""

    candidate: OpenBlocks = OpenBlocks()
    active: OpenBlocks = OpenBlocks()
    test: CandidateTest = CandidateTest()


class CandidateState(Contract):
    """A trigger's evidence about a candidate.

    Attributes:
        everyone: Evidence of all requests.
        others: Evidence without requests of `heaviest`.
        heaviest: Caller with most requests to the candidate when the last block closed.
        callers: Requests to the candidate by caller, of the callers with most.
        candidate, active: Counted requests; of the active version, in the seconds with the candidate.
        blocks: Number of closed blocks of the candidate.
        away_until_s: Return of the candidate's traffic after it was taken away; 0 if it never was.
        times_away: Number of times that it was taken away at the present share.
    """

    everyone: Beside = Beside()
    others: Beside = Beside()
    heaviest: str | None = None
    callers: dict[str, Count] = Field(default_factory=dict)
    candidate: Block = Block()
    active: Block = Block()
    blocks: Count = 0
    away_until_s: int = 0
    times_away: Count = 0

    @property
    def e_value(self) -> float:
        """Return the strongest evidence against the candidate."""
        return max(self.beyond, self.worse)

    @property
    def beyond(self) -> float:
        """Return the e-value of the test against the limit."""
        return as_e_value(self.everyone.test.beyond.log_e)

    @property
    def worse(self) -> float:
        """Return the e-value of the comparison with the active version at the same time."""
        return as_e_value(self.everyone.test.worse.log_e)

    @property
    def is_at_rest(self) -> bool:
        """Return whether the evidence against the candidate is back at its initial value."""
        test = self.everyone.test
        return not (self.everyone.candidate.bad or test.open.bad) and max(test.beyond.logs) <= max(AGAINST.logs)

    def begun_anew(self) -> "CandidateState":
        """Return the state with reset evidence against the candidate; open blocks stay."""
        everyone, others = (
            known.model_copy(update={"test": CandidateTest(passing=known.test.passing)}) for known in self.both
        )
        return self.model_copy(update={"everyone": everyone, "others": others})

    @property
    def both(self) -> tuple[Beside, Beside]:
        """Return `everyone` and `others`."""
        return self.everyone, self.others


def add_beside(state: CandidateState, candidate: Sequence[Outcome], active: Sequence[Outcome]) -> CandidateState:
    """Return a candidate with outcomes added to their blocks."""
    callers = dict(state.callers)
    for outcome in candidate:
        callers[outcome.holder] = callers.get(outcome.holder, 0) + 1
    rest = [[outcome for outcome in of if outcome.holder != state.heaviest] for of in (candidate, active)]
    away = range(state.away_until_s - AWAY_S, state.away_until_s)
    beside = [outcome for outcome in active if math.floor(outcome.ended_at.timestamp()) not in away]
    return state.model_copy(
        update={
            "everyone": _added(state.everyone, candidate, active),
            "others": _added(state.others, *rest),
            "callers": dict(sorted(callers.items(), key=lambda entry: entry[1])[-MOST_KEYS:]),
            "candidate": state.candidate.joined(_count(candidate)),
            "active": state.active.joined(_count(beside)),
        }
    )


def _added(known: Beside, candidate: Sequence[Outcome], active: Sequence[Outcome]) -> Beside:
    return known.model_copy(
        update={
            "candidate": add_to_blocks(known.candidate, candidate) if candidate else known.candidate,
            "active": add_to_blocks(known.active, active) if active else known.active,
        }
    )


def _count(outcomes: Iterable[Outcome]) -> Block:
    bad = [outcome.bad for outcome in outcomes]
    return Block(requests=len(bad), bad=sum(bad))


def close_candidate(state: CandidateState, trigger: Trigger, now: datetime | None) -> tuple[CandidateState, Closed]:
    """Return a candidate with its closed blocks as evidence, and these blocks; `now` None closes all."""
    everyone, closed = _closed(state.everyone, trigger, now, state.away_until_s)
    others, _ = _closed(state.others, trigger, now, state.away_until_s)
    if everyone is state.everyone and others is state.others:
        return state, {}
    heaviest = max(state.callers, key=state.callers.__getitem__, default=None) if closed else state.heaviest
    update = {"everyone": everyone, "others": others, "heaviest": heaviest, "blocks": state.blocks + len(closed)}
    return state.model_copy(update=update), closed


def _closed(known: Beside, trigger: Trigger, now: datetime | None, back_s: int) -> tuple[Beside, Closed]:
    candidate, closed = close_blocks(known.candidate, now)
    active, beside = close_blocks(known.active, now)
    if not closed and not beside:
        return known, {}
    test, limit, away = known.test, limit_of(trigger), range(back_s - AWAY_S, back_s - BLOCK_S + 1)
    for start, block in closed.items():
        if start >= back_s > test.back_s:
            test = test.begun_again(back_s)
        if back_s and start > back_s + ALONE_S:
            test = test.model_copy(update={"alone": ShareTest()})
        test = observe_candidate(test, limit, block, beside.get(start, Block()), least=trigger.min_requests)
    for start in (start for start in beside if start in away and start not in closed):
        test = observe_alone(test, limit, beside[start])
    return Beside(candidate=candidate, active=active, test=test), closed


def judge(state: CandidateState, trigger: Trigger, beta: float) -> CandidateVerdict:
    """Return the verdict of one trigger on a candidate."""
    return decide_candidate(
        state.everyone.test, state.others.test, callers=len(state.callers), alpha=trigger.alpha, beta=beta
    )


def count_needed(state: CandidateState, trigger: Trigger, beta: float) -> int:
    """Return the further good requests needed to pass, at the present rate per block."""
    tests = [known.test for known in (state.both if len(state.callers) >= FEW_CALLERS else state.both[:1])]
    blocks = max(count_blocks_to_pass(test, limit_of(trigger), beta) for test in tests)
    still_open = sum(block.requests for block in state.everyone.candidate.counts.values())
    return math.ceil(blocks * max(1.0, (state.candidate.requests - still_open) / max(1, state.blocks)))


def as_e_value(log_e: float) -> float:
    """Return the e-value of a capped log e-value."""
    return math.exp(min(log_e, _LARGEST_LOG))
