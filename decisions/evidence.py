"""Sequential evidence that a ratio is above its limit, valid however often one looks.

Every observation is a 0 or a 1 (a request that exceeds a threshold, fails, …). The null hypothesis is that ones come
with a probability of at most `p0`. For each alternative q of a declared grid, the likelihood ratio of q against p0 is
multiplied up; for q > p0 its expectation is at most 1 under every p <= p0, so that

the **e-process** (mean of the products over the grid) exceeds 1/alpha *at any time* with probability at most alpha
(Ville's inequality). It judges candidates; a version that serves is watched by blocks (`decisions.block_tests`).

Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference" (2023). All in log space.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import Field

from contracts.vocabulary import Contract

ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""The declared alternatives: the odds of a one are so many times those at the limit."""
SMALLEST_RATIO = 1e-4
"""A limit of zero would make one failure of a million an alarm for ever; this is what it means instead."""
LARGEST_RATIO = 1.0 - 1e-6
_LARGEST_E = 1e300

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Bet:
    """How the evidence for each alternative grows: by `hit` at a one, by `miss` (negative) at a zero, in logs."""

    p0: float
    hit: tuple[float, ...]
    miss: tuple[float, ...]
    log_weight: float


@lru_cache(maxsize=4096)
def plan_bet(p0: float) -> Bet:
    """Return the alternatives for a limit, all of equal weight."""
    limit = min(max(p0, SMALLEST_RATIO), LARGEST_RATIO)
    alternatives = [odds * limit / (1.0 - limit + odds * limit) for odds in ODDS]
    hit = tuple(math.log(q / limit) for q in alternatives)
    miss = tuple(math.log1p(-q) - math.log1p(-limit) for q in alternatives)
    return Bet(limit, hit, miss, -math.log(len(ODDS)))


class EProcess(Contract):
    """An e-process; the counts are all its state.

    Attributes:
        log_e: logarithm of the e-value now.
        peak: the highest that it ever was; crossing the line counts even where it fell back since.
    """

    trials: Count = 0
    hits: Count = 0
    log_e: float = 0.0
    peak: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Share of ones; None where nothing was observed."""
        return self.hits / self.trials if self.trials else None

    def crossed(self, alpha: float) -> bool:
        """Return whether the evidence was ever strong enough."""
        return self.peak >= -math.log(alpha)


def log_mean_exp(logs: Iterable[float], log_weight: float) -> float:
    """Return log of sum of exp(log_weight + value) without overflow."""
    values = tuple(logs)
    top = max(values)
    return log_weight + top + math.log(math.fsum(math.exp(value - top) for value in values))


def process_log_e(bet: Bet, trials: int, hits: int) -> float:
    """Return the log e-value of an e-process from its counts: the order of the observations does not matter."""
    misses = trials - hits
    return log_mean_exp((hits * h + misses * m for h, m in zip(bet.hit, bet.miss, strict=True)), bet.log_weight)


def observe_process(state: EProcess, bet: Bet, outcomes: Iterable[bool]) -> EProcess:
    """Take outcomes into an e-process, one after another."""
    trials, hits, peak = state.trials, state.hits, state.peak
    for outcome in outcomes:
        trials += 1
        if outcome:  # it only ever rises at a one
            hits += 1
            peak = max(peak, process_log_e(bet, trials, hits))
    return EProcess(trials=trials, hits=hits, log_e=process_log_e(bet, trials, hits), peak=peak)


def as_e_value(log_e: float) -> float:
    """Return an e-value for publication, bounded so that it stays a JSON number."""
    return min(math.exp(min(log_e, 690.0)), _LARGEST_E)


def estimate_requests_needed(evidence: EProcess, bet: Bet, alpha: float) -> int | None:
    """Estimate how many more observations it takes to cross, if ones are as frequent as so far.

    None when they come too seldom for that: then this evidence will never speak against the target.
    """
    ratio = (evidence.hits + 0.5) / (evidence.trials + 1.0)
    growth = max(ratio * h + (1.0 - ratio) * m for h, m in zip(bet.hit, bet.miss, strict=True))
    if growth <= 0.0:
        return None
    missing = -math.log(alpha) - bet.log_weight - max(evidence.log_e, bet.log_weight)
    return max(1, math.ceil(missing / growth))


# -- a canary against a concurrent baseline ---------------------------------------------------------------------------

PAIRS_WAITING = 64
EQUAL_SHARE = plan_bet(0.5)


class PairTest(Contract):
    """Candidate against baseline, request by request: an equal and concurrent slice of both.

    Each candidate's outcome is paired with that of the newest baseline request which was not used yet. Of the pairs in
    which exactly one side failed, the candidate is the failing one with probability at most 1/2 where it is no worse
    than the baseline, whatever the ratio of failures is and however it changes with the hour: a binomial conditioned on
    the number of failures, tested by an e-process. This holds where each request is assigned to a side by itself, not
    for callers that send `user`, all of whose requests are on one side.

    Attributes:
        waiting: outcomes of the side that is ahead, oldest first: `1` failed.
        ahead: which side that is.
    """

    pairs: Count = 0
    candidate_hits: Count = 0
    baseline_hits: Count = 0
    discordant: EProcess = EProcess()
    waiting: str = ""
    ahead: str = "baseline"


def observe_pair(state: PairTest, side: str, outcome: bool) -> PairTest:
    """Take one outcome of one side (`candidate` or `baseline`)."""
    mark = "1" if outcome else "0"
    if not state.waiting or state.ahead == side:
        waiting = (state.waiting + mark)[-PAIRS_WAITING:]
        return state.model_copy(update={"waiting": waiting, "ahead": side})
    other, waiting = state.waiting[-1] == "1", state.waiting[:-1]
    candidate, baseline = (outcome, other) if side == "candidate" else (other, outcome)
    discordant = state.discordant
    if candidate != baseline:
        discordant = observe_process(discordant, EQUAL_SHARE, [candidate])
    return state.model_copy(
        update={
            "waiting": waiting,
            "pairs": state.pairs + 1,
            "candidate_hits": state.candidate_hits + candidate,
            "baseline_hits": state.baseline_hits + baseline,
            "discordant": discordant,
        }
    )
