"""Rate limits of requests and tokens: token buckets that refill over a minute. Pure; seconds are monotonic.

A bucket holds at most one minute's refill. A request's tokens are known only after its answer, so its maximum is held
until then. A request with a maximum above the limit is admitted when the bucket is full and nothing is held. So in any
period a caller gets at most the initial rest, the refill, and one more request.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

RESERVED: Final = 8
"""The fraction 1/8 of a capacity is reserved for callers that use little of it."""
LITTLE: Final = 64
"""A caller uses little below the fraction 1/64 of the capacity."""
MINUTE_S: Final = 60.0


def may_take(own: int, used: int, added: int, limit: int) -> bool:
    """Return whether a caller may take `added` more: only callers that use little may take the reserve.

    So up to seven callers cannot exhaust a capacity of 64 or more. A capacity below eight has no reserve.

    Args:
        own: The caller's usage.
        used: The usage of all callers.
        added: The requested amount.
        limit: The capacity; check elsewhere that `used + added` does not exceed it.
    """
    return used + added <= limit - limit // RESERVED or own < max(1, limit // LITTLE)


@dataclass(frozen=True)
class Allowance:
    """The remaining amount of a limit per minute.

    Attributes:
        per_minute: the limit.
        left: the amount left at `at_s`; negative if overdrawn.
        at_s: monotonic seconds.
        held: the amount held for requests in progress.
    """

    per_minute: float
    left: float
    at_s: float
    held: float = 0.0

    @classmethod
    def filled(cls, per_minute: float, now_s: float) -> Self:
        """Return a full allowance."""
        return cls(per_minute, per_minute, now_s)

    def at(self, now_s: float) -> "Allowance":
        """Return the allowance refilled until `now_s`."""
        gained = max(0.0, now_s - self.at_s) * self.per_minute / MINUTE_S
        return replace(self, left=min(self.per_minute, self.left + gained), at_s=max(self.at_s, now_s))

    def resized(self, per_minute: float, now_s: float) -> "Allowance":
        """Return the allowance after a change of its limit; earlier usage still counts."""
        now = self.at(now_s)
        left = min(per_minute, now.left + per_minute - now.per_minute)
        return replace(now, per_minute=per_minute, left=left)

    def take_elsewhere(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance after usage by other processes; this overdraws it by at most one minute's refill.

        A negative amount is a refund.
        """
        now = self.at(now_s)
        return replace(now, left=max(now.left - amount, min(now.left, -self.per_minute)))

    def take(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance after usage, perhaps overdrawn."""
        now = self.at(now_s)
        return replace(now, left=now.left - amount)

    def hold(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance with its held amount changed by `amount`."""
        now = self.at(now_s)
        return replace(now, held=max(0.0, now.held + amount))

    def available(self, now_s: float) -> float:
        """Return the amount left and not held; negative if overdrawn."""
        return self.at(now_s).left - self.held

    def wait_s(self, needed: float, now_s: float) -> float:
        """Return the seconds until `needed` is available; 0 if it is now.

        Above one minute's refill, the time until the allowance is full. Held amounts count as used, although they
        may be released sooner.
        """
        missing = min(needed, self.per_minute) - self.available(now_s)
        return max(0.0, missing * MINUTE_S / self.per_minute)
