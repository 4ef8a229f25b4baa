"""Loops at the end of a text: a unit of characters that is repeated without a change, in any script.

A loop is a run in which each character equals the one `period` before, for at least two periods: the unit occurs three
times. Rows of a table or list repeat keys, not values: they are no loop.
"""

from collections import Counter
from typing import Final

TAIL_CHARS: Final = 2_000
"""Examined characters of the end."""
LEAST_CHARS: Final = 40
"""Minimum repeated characters of a loop; "ha ha ha" is none."""
_GRAM: Final = 8
_PERIODS: Final = 6
"""Number of most frequent distances between equal pieces to try as the period."""


def repetition_ratio(text: str) -> float:
    """Return the repeated share of a text's tail: 0 without a loop, near 1 in one."""
    tail = text.rstrip()[-TAIL_CHARS:]
    if len(tail) < LEAST_CHARS:
        return 0.0
    return max((_looped_chars(tail, period) for period in _periods(tail)), default=0) / len(tail)


def _periods(text: str) -> list[int]:
    """Return the most frequent distances between equal pieces: candidates for the period of a loop."""
    last: dict[str, int] = {}
    distances: Counter[int] = Counter()
    for start in range(len(text) - _GRAM + 1):
        gram = text[start : start + _GRAM]
        if gram in last:
            distances[start - last[gram]] += 1
        last[gram] = start
    return [distance for distance, _ in distances.most_common(_PERIODS)]


def _looped_chars(text: str, period: int) -> int:
    """Return the number of repeated characters in loops of a period."""
    least = max(LEAST_CHARS, 2 * period)
    looped = run = 0
    for before, char in zip(text, text[period:], strict=False):
        if before == char:
            run += 1
            continue
        looped += run if run >= least else 0
        run = 0
    return looped + (run if run >= least else 0)
