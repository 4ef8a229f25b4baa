"""Tests of candidates and of suspended versions, each with a declared probability of error.

All are e-processes of `decisions.evidence.block_tests` for the mean of a figure between 0 and 1:

| test | figure of a block or pair | mean if the null hypothesis holds |
|---|---|---|
| `beyond` | share of bad requests | at most the limit |
| `passing` | share of good requests | at most 1 - twice the limit |
| `alone` | active version's share of good requests, the candidate away | at most 1 - half of its bad share beside it |
| `worse` | (candidate's share - active version's share + 1) / 2 | at most (half of the limit + 1) / 2 |
| `pairs` | 1 if only the target is bad, 0 if only the other version | at most 1/2 |
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from contracts.vocabulary import Contract
from decisions.evidence.block_tests import (
    LEARNED,
    LEAST_REQUESTS,
    SMALLEST_LIMIT,
    STAKES,
    Block,
    Count,
    factor,
    plan_stakes,
)

FEW_CALLERS: Final = 3
"""Number of callers from which on the evidence without the heaviest one counts, too."""
MOST_OF_KEY: Final = 6
"""Maximum counted differing pairs of a key: less than half of those that confirm."""
LEAST_PAIRS: Final = 50
"""Number of pairs without a third caller from which on all pairs of a key count."""
FADING_BLOCKS: Final = 900
"""Blocks (half an hour) in which evidence about a suspended version fades to its square root, and caps to half."""
MOST_KEYS: Final = 64
"""Maximum number of counted keys; those with fewest requests are dropped."""
MOST_BLOCKS: Final = 10_000_000
BEGINS: Final = math.log(0.5 / LEARNED)
"""Logarithm of the weight of the e-process that begins with each block."""

CandidateVerdict = Literal["pass", "fail", "load", "undecided"]
JudgementVerdict = Literal["confirmed", "cleared", "undecided"]


class ShareTest(Contract):
    """An e-process: logarithms of its products by stake. Only its present value counts."""

    logs: tuple[float, ...] = (0.0,) * STAKES

    @property
    def log_e(self) -> float:
        """Return the logarithm of the e-value."""
        top = max(self.logs)
        return top + math.log(math.fsum(math.exp(log - top) for log in self.logs) / STAKES)

    def crossed(self, alpha: float) -> bool:
        """Return whether the null hypothesis is rejected at level `alpha`."""
        return self.log_e >= -math.log(alpha)


AGAINST: Final = ShareTest(logs=(math.log(0.5),) * STAKES)
"""Initial evidence against a candidate; the other half of the weight is for later begins."""


def observe_share(test: ShareTest, limit: float, share: float) -> ShareTest:
    """Return a test after a figure between 0 and 1; under the null hypothesis its mean is at most the limit."""
    stakes = plan_stakes(limit)
    logs = tuple(log + math.log(factor(stake, share, limit)) for stake, log in zip(stakes, test.logs, strict=True))
    return ShareTest(logs=logs)


def observe_change(test: ShareTest, limit: float, share: float) -> ShareTest:
    """Return a test after a figure, as `observe_share`, that quickly detects a change after good figures.

    The evidence is the mean of e-processes that begin with each block, with half of the weight on the first one, and
    half on those of an hour. Its level is the declared one in that hour, plus half of it in each further hour.
    """
    logs = tuple(max(log, BEGINS) + math.log1p(math.exp(-abs(log - BEGINS))) for log in test.logs)
    return observe_share(ShareTest(logs=logs), limit, share)


def fade(test: ShareTest, blocks: int = 1) -> ShareTest:
    """Return a test `blocks` later: evidence for and against a version fades.

    The level holds for some hours by simulation: 9 of 12,000 equal versions crossed 0.001 in six hours.
    """
    kept = 0.5 ** (blocks / FADING_BLOCKS)
    return ShareTest(logs=tuple(log * kept for log in test.logs))


def _least_bad(limit: float) -> float:
    """Return the share of a bad version: twice the limit, and below 1."""
    return min(2.0 * limit, (1.0 + limit) / 2.0, 1.0 - SMALLEST_LIMIT)


class CandidateTest(Contract):
    """The evidence of blocks about a candidate; `active` tests the active version in the same blocks.

    Evidence for passing accumulates over the shadow and all steps; evidence against is reset with each of them.

    Attributes:
        open: Joined blocks with too few requests for evidence against the candidate.
        beside: The active version's requests in blocks with the candidate, since its traffic began or returned.
        back_s: Last return of the candidate's traffic; 0 if it was not away.
    """

    open: Block = Block()
    beyond: ShareTest = AGAINST
    passing: ShareTest = ShareTest()
    worse: ShareTest = AGAINST
    active: ShareTest = AGAINST
    alone: ShareTest = ShareTest()
    beside: Block = Block()
    back_s: Count = 0

    def begun_again(self, back_s: int) -> "CandidateTest":
        """Return the test at the return of the candidate's traffic: both tests against the limit are reset.

        The evidence of `alone` and `worse` stays.
        """
        update = {"open": Block(), "beyond": AGAINST, "active": AGAINST, "beside": Block(), "back_s": back_s}
        return self.model_copy(update=update)


def observe_candidate(
    test: CandidateTest, limit: float, candidate: Block, active: Block, *, least: int = LEAST_REQUESTS
) -> CandidateTest:
    """Return the test after a block of both versions; blocks without requests of the candidate are ignored.

    Args:
        test: The test so far.
        limit: Permitted share of bad requests.
        candidate: The candidate's block.
        active: The active version's block.
        least: Number of first requests of the candidate that are judged together, to outweigh a cold start.
    """
    limit = max(limit, SMALLEST_LIMIT)
    share, beside = candidate.share, active.share
    if share is None:
        return test
    joined = test.open.joined(candidate)
    update: dict[str, Block | ShareTest] = {
        "open": joined,
        "beside": test.beside.joined(active),
        "passing": observe_share(test.passing, 1.0 - _least_bad(limit), 1.0 - share),
    }
    is_first = test.beyond == AGAINST
    is_full = joined.requests >= (max(least, LEAST_REQUESTS) if is_first else LEAST_REQUESTS)
    if joined.share is not None and is_full:
        update |= {"open": Block(), "beyond": observe_change(test.beyond, limit, joined.share)}
    if beside is not None:
        update["active"] = observe_change(test.active, limit, beside)
    if beside is not None and (is_full or not is_first or joined.requests > least):
        update["worse"] = observe_change(test.worse, (limit / 2.0 + 1.0) / 2.0, (share - beside + 1.0) / 2.0)
    return test.model_copy(update=update)


def observe_alone(test: CandidateTest, limit: float, active: Block) -> CandidateTest:
    """Return the test after a block of the active version without traffic for the candidate.

    Under the null hypothesis its share of bad requests is at least half of that beside the candidate, or the limit.

    Args:
        test: The test so far.
        limit: Permitted share of bad requests.
        active: The active version's block.
    """
    bound = min(max(limit, SMALLEST_LIMIT, (test.beside.share or 0.0) / 2.0), 1.0 - SMALLEST_LIMIT)
    if active.share is None:
        return test
    return test.model_copy(update={"alone": observe_share(test.alone, 1.0 - bound, 1.0 - active.share)})


def count_blocks_to_pass(test: CandidateTest, limit: float, beta: float) -> int:
    """Return the number of further blocks without bad requests needed to pass."""
    bound = 1.0 - _least_bad(max(limit, SMALLEST_LIMIT))
    growths = [math.log(factor(stake, 1.0, bound)) for stake in plan_stakes(bound)]

    def is_enough(blocks: int) -> bool:
        logs = tuple(log + blocks * growth for log, growth in zip(test.passing.logs, growths, strict=True))
        return ShareTest(logs=logs).crossed(beta)

    return bisect_left(range(MOST_BLOCKS), True, key=is_enough)


def decide_candidate(
    everyone: CandidateTest, others: CandidateTest, *, callers: int, alpha: float, beta: float
) -> CandidateVerdict:
    """Return the verdict: a good candidate fails with probability 2 `alpha` at most, a bad one passes with `beta`.

    A bad candidate has twice the limit. `load`: both versions are beyond the limit, and the active one did not recover
    without the candidate, so that machine or load may be at fault. From `FEW_CALLERS` on, passing requires both counts;
    failing requires `everyone`, unless `others` passes.

    Args:
        everyone: Evidence of all requests.
        others: Evidence without the caller with most requests.
        callers: Number of the candidate's callers.
        alpha: Level of each test against the candidate.
        beta: Level of the test that the candidate must pass.
    """
    verdict, rest = _decide(everyone, alpha, beta), _decide(others, alpha, beta)
    return verdict if callers < FEW_CALLERS or (rest == "pass") == (verdict == "pass") else "undecided"


def _decide(test: CandidateTest, alpha: float, beta: float) -> CandidateVerdict:
    if test.worse.crossed(alpha):
        return "fail"
    if test.beyond.crossed(alpha):
        level = math.sqrt(alpha)
        return "load" if test.active.crossed(level) and not test.alone.crossed(level) else "fail"
    return "pass" if test.passing.crossed(beta) else "undecided"


@dataclass(frozen=True)
class Pair:
    """A request to a suspended version and its replacement; `target` and `other`: whether each answer was bad."""

    key: str
    target: bool
    other: bool


class Judgement(Contract):
    """The evidence of pairs about a suspended version.

    Attributes:
        pairs: Test of differing pairs; `uncapped` includes all pairs of each key.
        passing: Test of all pairs in blocks; `passing_others` excludes the key with most pairs.
        asked: Pairs by key.
        differing: Counted differing pairs by key, fading like the evidence.
    """

    pairs: ShareTest = ShareTest()
    uncapped: ShareTest = ShareTest()
    passing: ShareTest = ShareTest()
    passing_others: ShareTest = ShareTest()
    asked: dict[str, int] = Field(default_factory=dict)
    differing: dict[str, float] = Field(default_factory=dict)


def observe_pairs(state: Judgement, limit: float, pairs: Iterable[Pair], *, blocks: int = 1) -> Judgement:
    """Return the judgement after a block of pairs, `blocks` after the last observed one; evidence fades meanwhile.

    Whether a pair counts is known before its outcome: pairs of a key beyond the cap are left out, good or bad.
    """
    test, uncapped = fade(state.pairs, blocks), fade(state.uncapped, blocks)
    asked = dict(state.asked)
    differing = {key: pairs * 0.5 ** (blocks / FADING_BLOCKS) for key, pairs in state.differing.items()}
    heaviest = max(state.asked, key=state.asked.__getitem__, default=None)
    everyone, others = Block(), Block()
    for pair in pairs:
        asked[pair.key] = asked.get(pair.key, 0) + 1
        shown = Block(requests=1, bad=int(pair.target and not pair.other))
        everyone = everyone.joined(shown)
        if pair.key != heaviest:
            others = others.joined(shown)
        if pair.target == pair.other:
            continue
        uncapped = observe_share(uncapped, 0.5, float(pair.target))
        if (counted := differing.get(pair.key, 0.0) + 1.0) <= MOST_OF_KEY:
            differing[pair.key] = counted
            test = observe_share(test, 0.5, float(pair.target))
    asked = dict(sorted(asked.items(), key=lambda entry: entry[1])[-MOST_KEYS:])
    return Judgement(
        pairs=test,
        uncapped=uncapped,
        passing=_observe_good(state.passing, limit, everyone),
        passing_others=_observe_good(state.passing_others, limit, others),
        asked=asked,
        differing={key: pairs for key, pairs in differing.items() if key in asked},
    )


def _observe_good(test: ShareTest, limit: float, block: Block) -> ShareTest:
    share = block.share
    return test if share is None else observe_share(test, 1.0 - _least_bad(max(limit, SMALLEST_LIMIT)), 1.0 - share)


def decide_judgement(state: Judgement, *, alpha: float, beta: float) -> JudgementVerdict:
    """Return the verdict: a version no worse is confirmed with probability `alpha`, a bad one cleared with `beta`."""
    is_of_few = len(state.asked) < FEW_CALLERS and sum(state.asked.values()) >= LEAST_PAIRS
    if state.pairs.crossed(alpha) or (is_of_few and state.uncapped.crossed(alpha)):
        return "confirmed"
    is_shown = is_of_few or state.passing_others.crossed(beta)
    return "cleared" if is_shown and state.passing.crossed(beta) else "undecided"
