"""Rate limits of requests and tokens: allowances that refill over a minute. Pure; seconds are monotonic.

An allowance holds at most one minute's refill. The number of tokens of a request is known after its answer, so the
most that it may take is held until then, and what it took is taken at its end. A request that may take more than the
limit is admitted when nothing else is held and all is left. So in any time a caller gets at most what was left at its
begin, what came in it, and one request more.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

RESERVED: Final = 8
"""One part in so many of a capacity is for callers that have little of it in use."""
LITTLE: Final = 64
"""A caller that has less than one part in so many in use has little."""
MINUTE_S: Final = 60.0


def may_take(own: int, used: int, added: int, limit: int) -> bool:
    """Return whether a caller may take `added` more without touching the reserve for callers that hold little.

    So up to seven callers cannot take all of a capacity of 64 or more, whatever they hold and for however long. A
    capacity below eight has no reserve.

    Args:
        own: The caller's use.
        used: The use of all callers.
        added: The requested amount.
        limit: The total capacity; a single request above it is not refused here.
    """
    return used + added <= limit - limit // RESERVED or own < max(1, limit // LITTLE)


@dataclass(frozen=True)
class Allowance:
    """The rest of a limit per minute.

    Attributes:
        per_minute: the limit.
        left: what is left at `at_s`; below zero if more was used than there was.
        at_s: the time, in monotonic seconds.
        held: what requests that are being answered may still take.
    """

    per_minute: float
    left: float
    at_s: float
    held: float = 0.0

    @classmethod
    def filled(cls, per_minute: float, now_s: float) -> Self:
        """Return an allowance of which nothing was used."""
        return cls(per_minute, per_minute, now_s)

    def at(self, now_s: float) -> "Allowance":
        """Return the current allowance; a clock that went back adds nothing."""
        gained = max(0.0, now_s - self.at_s) * self.per_minute / MINUTE_S
        return replace(self, left=min(self.per_minute, self.left + gained), at_s=max(self.at_s, now_s))

    def resized(self, per_minute: float, now_s: float) -> "Allowance":
        """Return the allowance after a change of its limit; earlier use still counts."""
        now = self.at(now_s)
        left = min(per_minute, now.left + per_minute - now.per_minute)
        return replace(now, per_minute=per_minute, left=left)

    def take_elsewhere(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance after others used something of the same limit; at most a minute's is owed for that.

        A negative amount gives back what was counted as used by others and was not.
        """
        now = self.at(now_s)
        return replace(now, left=max(now.left - amount, min(now.left, -self.per_minute)))

    def take(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance after something was used, which may be more than is left."""
        now = self.at(now_s)
        return replace(now, left=now.left - amount)

    def hold(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance with its held amount changed by `amount`."""
        now = self.at(now_s)
        return replace(now, held=max(0.0, now.held + amount))

    def available(self, now_s: float) -> float:
        """Return the free rest of the limit, without held shares; negative if overdrawn."""
        return self.at(now_s).left - self.held

    def wait_s(self, needed: float, now_s: float) -> float:
        """Return the seconds until `needed` is available; 0 if it is now.

        For more than one minute's refill it is the time until the allowance is full. A held amount counts as
        taken, although it may come back sooner.
        """
        missing = min(needed, self.per_minute) - self.available(now_s)
        return max(0.0, missing * MINUTE_S / self.per_minute)
