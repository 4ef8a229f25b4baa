"""Sequential tests, by blocks of time, that a share of bad requests is above its limit.

A block holds the counted requests of two seconds, with equal bodies of a key once; blocks are joined until they hold
`LEAST_REQUESTS`. With m the share of bad requests of a block, p the limit and c a stake, a block multiplies the
evidence by

    factor(m) = min(1 + c * (m - p) / p, GREATEST_FACTOR),    0 < c < 1.

**Null hypothesis:** given the past and the number of requests of a block, its expected share is at most p. Then the
factor's expectation is at most 1, because it is linear in m below its bound; it is never below 1 - c. Nothing is
assumed about the requests inside a block (a burst is one observation), nor about their number, which may follow the
load. Bad blocks are assumed not to predict bad ones: a longer burst counts in each of its blocks, by at most
`GREATEST_FACTOR`, so that at least four wholly bad blocks are needed to cross a line of a week.

- The **e-detector**, the mean over the stakes of R <- (1 + R) * factor, is compared with a line A. The mean of R minus
  the number of blocks is a supermartingale, so that a false alarm takes at least A - R0 blocks with traffic on average
  (R0, below 50: the value at rest, at which R begins). It watches a serving version.
- The **e-process**, the mean over the stakes of the products, exceeds 1/alpha at any time with probability at most
  alpha (Ville's inequality). It judges a version once (`decisions.evidence.version_tests`).

Sources: Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2022), for
bounded means; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final

from pydantic import Field

from contracts.vocabulary import Contract
from decisions.evidence.triggers import Outcome

BLOCK_S: Final = 2
GRACE_S: Final = 1.0
"""Seconds after its end in which a block takes requests; later ones count in the next block."""
LEAST_REQUESTS: Final = 4
GREATEST_FACTOR: Final = 14.0
STAKES: Final = 4
SMALLEST_LIMIT: Final = 1e-4
"""Least effective limit: with 0, one failure in a million requests would be an alarm."""
LEARNED: Final = 1800
"""Number of first blocks with requests (an hour) that form a version's history."""
_LARGEST_SUM: Final = 1e15
_UPPER_95: Final = 1.645
_NEAR_REST: Final = 1.1
"""Tolerance of `is_at_rest`: the evidence approaches its value at rest without reaching it."""

Count = Annotated[int, Field(ge=0)]


class Block(Contract):
    """Counted requests of a block, and the bad ones among them."""

    requests: Count = 0
    bad: Count = 0

    @property
    def share(self) -> float | None:
        """Return the share of bad requests; None without requests."""
        return self.bad / self.requests if self.requests else None

    def joined(self, other: "Block") -> "Block":
        """Return both blocks as one."""
        return Block(requests=self.requests + other.requests, bad=self.bad + other.bad)


Closed = dict[int, Block]
"""Closed blocks by the second of their begin, in ascending order."""


class OpenBlocks(Contract):
    """The open blocks of a metric.

    Attributes:
        counts: Blocks with requests, by the second of their begin.
        until_s: End of the newest closed block.
    """

    counts: dict[int, Block] = Field(default_factory=dict)
    until_s: int = 0

    @property
    def bad(self) -> int:
        """Return the number of bad requests."""
        return sum(block.bad for block in self.counts.values())

    @property
    def good(self) -> int:
        """Return the number of good requests."""
        return sum(block.requests - block.bad for block in self.counts.values())


def add_to_blocks(blocks: OpenBlocks, outcomes: Iterable[Outcome]) -> OpenBlocks:
    """Return the blocks with outcomes added by their end time."""
    added: dict[int, list[int]] = {}
    for outcome in outcomes:
        start = max(blocks.until_s, math.floor(outcome.ended_at.timestamp()) // BLOCK_S * BLOCK_S)
        count = added.setdefault(start, [0, 0])
        count[0] += 1
        count[1] += outcome.bad
    counts = dict(blocks.counts)
    for start, (requests, bad) in added.items():
        counts[start] = counts.get(start, Block()).joined(Block(requests=requests, bad=bad))
    return blocks.model_copy(update={"counts": counts})


def close_blocks(blocks: OpenBlocks, now: datetime | None) -> tuple[OpenBlocks, Closed]:
    """Return the blocks that are open at `now`, and the closed ones; None closes all."""
    line = math.inf if now is None else now.timestamp() - GRACE_S
    closed = {start: blocks.counts[start] for start in sorted(blocks.counts) if start + BLOCK_S <= line}
    if not closed:
        return blocks, {}
    kept = {start: block for start, block in blocks.counts.items() if start not in closed}
    return OpenBlocks(counts=kept, until_s=max(closed) + BLOCK_S), closed


@lru_cache(maxsize=4096)
def plan_stakes(limit: float) -> tuple[float, ...]:
    """Return the equally weighted stakes for a limit; the greatest reaches `GREATEST_FACTOR` at a share of 1."""
    low = max(0.02, 0.4 * limit)
    high = max(low, min(0.8, (GREATEST_FACTOR - 1.0) * limit))
    return tuple(low * (high / low) ** (index / (STAKES - 1)) for index in range(STAKES))


def factor(stake: float, share: float, limit: float) -> float:
    """Return the factor of one block on the evidence that shares are above a limit."""
    return min(1.0 + stake * (share - limit) / limit, GREATEST_FACTOR)


class ShareDetector(Contract):
    """An e-detector of one metric of a serving version.

    Attributes:
        open: Joined blocks with fewer than `LEAST_REQUESTS` requests.
        sums: R by stake; empty before the first block.
        peak: Highest mean of the sums.
    """

    open: Block = Block()
    sums: tuple[float, ...] = ()
    peak: float = 0.0

    @property
    def value(self) -> float:
        """Return the present evidence."""
        return math.fsum(self.sums) / STAKES


def plan_line(false_alarm_every_h: float, triggers: int) -> float:
    """Return the line of each of a model's triggers for one false alarm in the given hours over all triggers.

    Raises:
        ValueError: The hours are below 1, or there is no trigger.
    """
    if false_alarm_every_h < 1.0 or triggers < 1:
        raise ValueError(
            f"false_alarm_every is {false_alarm_every_h:g} h for {triggers} triggers; the least is 1 h for 1 trigger"
        )
    return false_alarm_every_h * 3600.0 / BLOCK_S * triggers


def observe_detector(state: ShareDetector, limit: float, blocks: Iterable[Block]) -> ShareDetector:
    """Return a detector after blocks in ascending order."""
    limit = max(limit, SMALLEST_LIMIT)
    stakes = plan_stakes(limit)
    sums = state.sums or _sums_at_rest(stakes)
    pending, peak = state.open, state.peak
    for block in blocks:
        pending = pending.joined(block)
        share = pending.share
        if share is None or pending.requests < LEAST_REQUESTS:
            continue
        sums = tuple(
            min((1.0 + total) * factor(stake, share, limit), _LARGEST_SUM)
            for stake, total in zip(stakes, sums, strict=True)
        )
        pending, peak = Block(), max(peak, math.fsum(sums) / STAKES)
    return ShareDetector(open=pending, sums=sums, peak=peak)


def count_bad_blocks(limit: float, line: float) -> int:
    """Return the number of wholly bad blocks after which evidence at rest reaches the line."""
    limit = max(limit, SMALLEST_LIMIT)
    stakes = plan_stakes(limit)
    growths = [factor(stake, 1.0, limit) for stake in stakes]

    def is_enough(blocks: int) -> bool:
        """Return whether the mean of R, which is R * g**n + g + g**2 + … + g**n after n blocks, reaches the line."""
        total = 0.0
        for rest, growth in zip(_sums_at_rest(stakes), growths, strict=True):
            power = math.exp(min(blocks * math.log(growth), 100.0))
            total += rest * power + (growth * (power - 1.0) / (growth - 1.0) if growth > 1.0 else blocks)
        return total / STAKES >= line

    return bisect_left(range(math.ceil(line)), True, key=is_enough)


def is_at_rest(state: ShareDetector, limit: float) -> bool:
    """Return whether the evidence is back at its initial value."""
    if state.open.bad:
        return False
    rest = math.fsum(_sums_at_rest(plan_stakes(max(limit, SMALLEST_LIMIT)))) / STAKES
    return not state.sums or state.value <= _NEAR_REST * rest


def _sums_at_rest(stakes: Iterable[float]) -> tuple[float, ...]:
    """Return the sums without bad requests: the fixed points of R <- (1 + R) * (1 - c)."""
    return tuple((1.0 - stake) / stake for stake in stakes)


class History(Contract):
    """Shares of bad requests in a version's first blocks: count, sum, and sum of squares."""

    blocks: Count = 0
    total: float = 0.0
    squares: float = 0.0


def learn(history: History, blocks: Iterable[Block]) -> History:
    """Return the history with further blocks, without empty ones and up to `LEARNED`."""
    shares = [block.share for block in blocks if block.share is not None][: LEARNED - history.blocks]
    return History(
        blocks=history.blocks + len(shares),
        total=history.total + sum(shares),
        squares=history.squares + sum(share * share for share in shares),
    )


def own_limit(history: History, allowed_factor: float) -> float:
    """Return the limit from a version's own history; 1 before `LEARNED` blocks.

    It is `allowed_factor` times the upper 95 % bound of the share of bad requests, with at least three in `LEARNED`.
    The bound is over blocks, so that bursts widen it.
    """
    if history.blocks < LEARNED:
        return 1.0
    mean = history.total / history.blocks
    variance = max(0.0, history.squares / history.blocks - mean * mean)
    return allowed_factor * max(mean + _UPPER_95 * math.sqrt(variance / history.blocks), 3.0 / history.blocks)
