"""How many requests and tokens a caller may use: allowances that fill up over a minute. Pure; seconds are monotonic.

An allowance holds at most what a minute brings. A request needs one of requests and anything of tokens: how many tokens
it takes is known when it is answered. So the allowance of tokens can go below zero, and the caller waits until it is
above again. On average over minutes no caller gets more than the limit.
"""

from dataclasses import dataclass
from typing import Final, Self

MINUTE_S: Final = 60.0


@dataclass(frozen=True)
class Allowance:
    """What is left of a limit per minute.

    Attributes:
        per_minute: the limit.
        left: what is left at `at_s`; below zero if more was used than there was.
        at_s: the time, in monotonic seconds.
    """

    per_minute: float
    left: float
    at_s: float

    @classmethod
    def filled(cls, per_minute: float, now_s: float) -> Self:
        """Return an allowance of which nothing was used."""
        return cls(per_minute, per_minute, now_s)

    def at(self, now_s: float) -> "Allowance":
        """Return the allowance as it is now; a clock that went back adds nothing."""
        gained = max(0.0, now_s - self.at_s) * self.per_minute / MINUTE_S
        return Allowance(self.per_minute, min(self.per_minute, self.left + gained), max(self.at_s, now_s))

    def resized(self, per_minute: float, now_s: float) -> "Allowance":
        """Return the allowance after its limit was changed: what was used stays used."""
        now = self.at(now_s)
        return Allowance(per_minute, min(per_minute, now.left + per_minute - now.per_minute), now.at_s)

    def take(self, amount: float, now_s: float) -> "Allowance":
        """Return the allowance after something was used, which may be more than is left."""
        now = self.at(now_s)
        return Allowance(now.per_minute, now.left - amount, now.at_s)

    def wait_s(self, needed: float, now_s: float) -> float:
        """Return the seconds until so much is left; 0 if it is there now.

        More than a minute brings is never left: then it is the time until the allowance is full.
        """
        missing = min(needed, self.per_minute) - self.at(now_s).left
        return max(0.0, missing * MINUTE_S / self.per_minute)
