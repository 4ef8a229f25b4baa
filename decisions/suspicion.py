"""Whether the newest requests of a target are worse than a trigger allows: before an alert, and no alert by itself.

The rollback-controller asks its own probes then, so that what they show is known when the alert comes. A suspicion
decides nothing: one by chance costs a few short requests.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts.policy import Trigger
from decisions.evidence import plan_bet, process_log_e
from decisions.triggers import kind_of, limit_of

NEWEST: Final = 8
"""Requests that are looked at."""
SUSPICIOUS_E: Final = 6.0
"""The e-value from which the last few of them are suspicious: one bad request where one in 20 is allowed."""
STRONG_E: Final = 40.0
"""The e-value from which probes are asked once more before `EVERY_S`: the first ones may have come too early."""
EVERY_S: Final = 10.0
"""The least time between two rounds of probes for which no alert asks, with one more in between."""
FRESH_S: Final = 5.0
"""How old what they show may be when an alert is decided, in seconds."""


@dataclass(frozen=True)
class Asked:
    """When probes were asked last, in monotonic seconds, and how strong the suspicion was (a log e-value)."""

    at_s: float
    log_e: float


def can_suspect(trigger: Trigger) -> bool:
    """Return whether asking early saves time: only probes of a slow version take long, and quality is not probed."""
    return kind_of(trigger) == "latency" and trigger.action == "automatic"


def note_newest(newest: tuple[bool, ...], outcomes: Iterable[bool]) -> tuple[bool, ...]:
    """Return the newest outcomes with some more; True is bad."""
    return (*newest, *outcomes)[-NEWEST:]


def suspicion(trigger: Trigger, newest: tuple[bool, ...]) -> float:
    """Return the highest log e-value of the last outcomes, however many of `newest`; 0 without a bad one."""
    if not any(newest):
        return 0.0
    bet, counts = plan_bet(limit_of(trigger)), range(1, len(newest) + 1)
    return max(0.0, *(process_log_e(bet, count, sum(newest[-count:])) for count in counts))


def may_ask(log_e: float, last: Asked | None, now_s: float) -> bool:
    """Return whether a suspicion is strong enough for probes: twice in `EVERY_S` at most."""
    if log_e < math.log(SUSPICIOUS_E):
        return False
    if last is None or now_s - last.at_s >= EVERY_S:
        return True
    return last.log_e < math.log(STRONG_E) <= log_e
