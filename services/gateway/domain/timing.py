"""Latencies of an answer from the arrival of its pieces: time to first token, time between tokens."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.facts.watch import InterTokenLatency


@dataclass(frozen=True)
class Arrival:
    """A piece of an answer, with its time in seconds after the request's arrival."""

    at_s: float
    tokens: int
    has_text: bool


def first_token_ms(arrivals: Sequence[Arrival], *, held_back: bool = False) -> float | None:
    """Return the time to first token, which is that of the first piece with text; None if there was none.

    Args:
        arrivals: the pieces in order.
        held_back: the caller's own parameters can suppress text: the engine holds back a possible stop sequence, and
            tokens after a forced end have no text. Then a token counts even without text.
    """
    times = (arrival.at_s for arrival in arrivals if arrival.has_text or (held_back and arrival.tokens > 0))
    first_s = next(times, None)
    return None if first_s is None else first_s * 1000.0


def inter_token(arrivals: Sequence[Arrival]) -> InterTokenLatency | None:
    """Return the inter-token latency: (last - first) / (tokens after the first piece), and p95 and maximum of the gaps.

    A piece of several tokens counts as so many equal gaps; within the first piece no time is known. None with fewer
    than two pieces.
    """
    pieces = [arrival for arrival in arrivals if arrival.tokens > 0]
    if len(pieces) < 2:
        return None
    gaps: list[float] = []
    for before, after in itertools.pairwise(pieces):
        gaps += [(after.at_s - before.at_s) * 1000.0 / after.tokens] * after.tokens
    gaps.sort()
    mean = (pieces[-1].at_s - pieces[0].at_s) * 1000.0 / len(gaps)
    return InterTokenLatency(mean=mean, p95=gaps[math.ceil(0.95 * len(gaps)) - 1], max=gaps[-1])
