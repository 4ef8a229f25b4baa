"""Spreads the requests of a window over its time, by block where the summary has blocks. Pure."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from decisions.evidence.block_tests import BLOCK_S
from decisions.replay.counts import Counted
from decisions.replay.route_history import Span

Part = tuple[Span, datetime, datetime]
"""A part of a window in which its target had the same share of traffic."""
Spread = tuple[Span, Sequence[bool], Sequence[datetime]]
"""Of a part: whether each request was bad, and when it ended."""
RAISED_WITHIN = timedelta(seconds=5)
"""So long after the end of a window an alert may be raised about its requests."""


def spread(trials: int, hits: int) -> list[bool]:
    """Return which of some requests are bad, spread evenly: a single one is in the middle."""
    so_far = [(2 * i * hits + trials) // (2 * trials) for i in range(trials + 1)]
    return [after > before for before, after in pairwise(so_far)]


def spread_late(trials: int, hits: int, late: int) -> list[bool]:
    """Return which are bad, spread evenly over the last `late` requests (at least `hits`), of which the last is bad."""
    so_far = [index * hits // max(late, 1) for index in range(late + 1)]
    return [*([False] * (trials - late)), *(after > before for before, after in pairwise(so_far))]


def spread_over(
    counted: Counted, parts: Sequence[Part], raised: Sequence[datetime], begin: datetime
) -> Iterable[Spread]:
    """Yield outcomes and times for each part of a window, which begins at a time.

    Where the blocks are known, each has its requests in it. Otherwise they come evenly, as if the parts were adjacent,
    the bad ones from the moment on at which an alert was really raised, if one was.
    """
    if counted.blocks:
        return _spread_blocks(counted.blocks, parts, begin)
    return _spread_evenly(counted, parts, raised)


def _spread_blocks(blocks: Sequence[tuple[int, int, int]], parts: Sequence[Part], begin: datetime) -> Iterable[Spread]:
    outcomes = [outcome for _, requests, bad in blocks for outcome in spread(requests, bad)]
    times = [
        begin + timedelta(seconds=after_s + BLOCK_S * (index + 0.5) / requests)
        for after_s, requests, _ in blocks
        for index in range(requests)
    ]
    cuts = [0, *(bisect_right(times, end) for _, _, end in parts[:-1]), len(times)]
    for (span, _, _), (first, last) in zip(parts, pairwise(cuts), strict=True):
        yield span, outcomes[first:last], times[first:last]


def _spread_evenly(counted: Counted, parts: Sequence[Part], raised: Sequence[datetime]) -> Iterable[Spread]:
    lengths = [(end - begin).total_seconds() for _, begin, end in parts]
    ends = [math.fsum(lengths[: index + 1]) for index in range(len(parts))]
    positions = [(i + 0.5) / counted.trials * ends[-1] for i in range(counted.trials)]
    outcomes = spread(counted.trials, counted.hits)
    first_at, last_at = parts[0][1], parts[-1][2]
    raised_at = next((at for at in raised if first_at <= at <= last_at + RAISED_WITHIN), None)
    if raised_at is not None:
        after = max(0.0, (last_at - raised_at).total_seconds()) / (last_at - first_at).total_seconds()
        outcomes = spread_late(counted.trials, counted.hits, max(counted.hits, round(after * counted.trials)))
    cuts = [bisect_right(positions, end) for end in ends[:-1]] + [len(positions)]
    first = 0
    for (span, begin, _), length, end, last in zip(parts, lengths, ends, cuts, strict=True):
        times = [begin + timedelta(seconds=position - (end - length)) for position in positions[first:last]]
        yield span, outcomes[first:last], times
        first = last
