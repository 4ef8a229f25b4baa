"""Loops at the end of a text, in any script: a unit of characters that is written again and again without a change.

The tail of the text is examined by its characters, so that Chinese, JSON and code are texts as any other. A loop is a
stretch in which each character equals the one `period` before it, for two periods or more, so that the unit is written
three times at least. Rows of a table or list repeat their keys, not their values: they are no loop.
"""

from collections import Counter
from typing import Final

TAIL_CHARS: Final = 2_000
"""Only so much of the end is examined: a loop goes on to the end, and the cost per text is bounded."""
LEAST_CHARS: Final = 40
"""What is written again has at least so many characters; "ha ha ha" is no loop."""
_GRAM: Final = 8
_PERIODS: Final = 6
"""So many distances between equal pieces are tried as the period, the most frequent ones first."""


def repetition_ratio(text: str) -> float:
    """Return the share of the tail of a text that is written again in a loop: 0 without a loop, near 1 in one."""
    tail = text.rstrip()[-TAIL_CHARS:]
    if len(tail) < LEAST_CHARS:
        return 0.0
    return max((_looped_chars(tail, period) for period in _periods(tail)), default=0) / len(tail)


def _periods(text: str) -> list[int]:
    """Return the distances at which most pieces of a text occurred before: a loop has its period among them."""
    last: dict[str, int] = {}
    distances: Counter[int] = Counter()
    for start in range(len(text) - _GRAM + 1):
        gram = text[start : start + _GRAM]
        if gram in last:
            distances[start - last[gram]] += 1
        last[gram] = start
    return [distance for distance, _ in distances.most_common(_PERIODS)]


def _looped_chars(text: str, period: int) -> int:
    """Return how many characters of a text are written again in loops of a period."""
    least = max(LEAST_CHARS, 2 * period)
    looped = run = 0
    for before, char in zip(text, text[period:], strict=False):
        if before == char:
            run += 1
            continue
        looped += run if run >= least else 0
        run = 0
    return looped + (run if run >= least else 0)
