"""Counts outcomes in the blocks of time in which their requests ended, until each block is over."""

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from pydantic import Field

from contracts.vocabulary import Contract
from decisions.evidence.block_tests import BLOCK_S, Block
from decisions.evidence.triggers import Outcome

GRACE_S: Final = 1.0
"""How long after its end a block still takes requests; one that is reported later counts in the next block."""
Closed = dict[int, Block]
"""Blocks that are over, by the second of their begin, in the order of their time."""


class OpenBlocks(Contract):
    """The blocks of a metric that still take requests.

    Attributes:
        counts: The blocks with requests, by the second of their begin.
        until_s: The end of the newest block that is over.
    """

    counts: dict[int, Block] = Field(default_factory=dict)
    until_s: int = 0

    @property
    def bad(self) -> int:
        """Return the number of bad requests."""
        return sum(block.bad for block in self.counts.values())

    @property
    def good(self) -> int:
        """Return the number of the others."""
        return sum(block.requests - block.bad for block in self.counts.values())


def add_to_blocks(blocks: OpenBlocks, outcomes: Iterable[Outcome]) -> OpenBlocks:
    """Return the blocks with outcomes counted at the time of their end."""
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
    """Return the blocks that are open after a time, and those that are over; all are over without a time."""
    line = math.inf if now is None else now.timestamp() - GRACE_S
    closed = {start: blocks.counts[start] for start in sorted(blocks.counts) if start + BLOCK_S <= line}
    if not closed:
        return blocks, {}
    kept = {start: block for start, block in blocks.counts.items() if start not in closed}
    return OpenBlocks(counts=kept, until_s=max(closed) + BLOCK_S), closed
