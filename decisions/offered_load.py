"""Whether the load that callers offer has risen: admitted requests and their prompts against the time before.

Only what the limits of a key admit is counted, before it is known how it is answered: a version that is slow does not
lower the count, and no caller raises it beyond its limits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BUCKET_S: Final = 5.0
RECENT_S: Final = 30.0
BEFORE_S: Final = 60.0
"""The last half minute is compared with the minute before it."""
REMEMBERED_S: Final = 300.0
"""How long a rise counts: an alert may take minutes, and what waits in a queue stays longer than the burst."""
_RATIO: Final = 1.5
_FEWEST: Final = 10
_DEVIATIONS: Final = 3.0
"""A rise is one by half of the rate before, beyond chance, of requests or of the tokens of their prompts."""
_HUGE: Final = 3
"""So many prompts of the length of the longest one are no rise by themselves."""


@dataclass(frozen=True)
class Offered:
    """Admitted requests, the tokens of their prompts, estimated, and those of the longest one."""

    requests: int = 0
    tokens: int = 0
    longest: int = 0

    def __add__(self, other: "Offered") -> "Offered":
        """Return both together."""
        longest = max(self.longest, other.longest)
        return Offered(self.requests + other.requests, self.tokens + other.tokens, longest)


Buckets = Mapping[int, Offered]
"""By number of their `BUCKET_S` on the monotonic clock."""


def add_offered(buckets: Buckets, offered: Offered, now_s: float) -> dict[int, Offered]:
    """Return the buckets with what was offered until now; older ones than are compared are left out."""
    number = int(now_s // BUCKET_S)
    oldest = int((now_s - RECENT_S - BEFORE_S) // BUCKET_S)
    kept = {key: known for key, known in buckets.items() if oldest <= key <= number}
    return {**kept, number: kept.get(number, Offered()) + offered}


def has_risen(buckets: Buckets, now_s: float, known_s: float) -> bool:
    """Return whether the offered load has risen; `known_s`: for how long it has been known at all."""
    if known_s < RECENT_S + BEFORE_S:
        return False
    recent, before = Offered(), Offered()
    for key, offered in buckets.items():
        age_s = now_s - (key + 0.5) * BUCKET_S
        if age_s <= RECENT_S:
            recent += offered
        elif age_s <= RECENT_S + BEFORE_S:
            before += offered
    if recent.requests < _FEWEST:
        return False
    scale = RECENT_S / BEFORE_S
    expected = before.requests * scale
    by_chance = _DEVIATIONS * math.sqrt(recent.requests + expected * scale)
    more_requests = recent.requests >= _RATIO * expected and recent.requests - expected >= by_chance
    usual = recent.tokens - _HUGE * recent.longest
    longer = usual >= _RATIO * scale * before.tokens > 0 and before.requests >= _FEWEST
    return more_requests or longer


@dataclass(frozen=True)
class LastRise:
    """When the offered load was last seen to rise, on the monotonic clock; None before that."""

    at_s: float | None = None

    def note(self, buckets: Buckets, now_s: float, known_s: float) -> "LastRise":
        """Return it with what is seen now."""
        return LastRise(now_s) if has_risen(buckets, now_s, known_s) else self

    def counts(self, now_s: float) -> bool:
        """Return whether a rise of the last minutes may be what makes both versions slow."""
        return self.at_s is not None and now_s - self.at_s < REMEMBERED_S
