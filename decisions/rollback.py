"""Whether an alert leads to an automatic rollback: the meaning of a trigger's `action` and `cooldown_s`.

The rollback-controller decides every alert with it, `slipway replay` the recorded ones.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.policy import Trigger
from decisions.orders import CLOCK_SKEW


@dataclass(frozen=True)
class PastRollback:
    """An automatic rollback that was carried out."""

    trigger: str
    at: datetime


@dataclass(frozen=True)
class Guard:
    """The limit of automatic rollbacks: at most `most` within `within_s` seconds."""

    most: int = 3
    within_s: float = 3600.0


@dataclass(frozen=True)
class RollBack:
    """Roll back now."""


@dataclass(frozen=True)
class Hold:
    """No automatic rollback, and why; `code` is None if the policy asks for none."""

    code: Literal["cooldown", "too_many_rollbacks"] | None
    reason: str


Decision = RollBack | Hold


def decide_rollback(
    trigger: Trigger | None, past: Iterable[PastRollback], now: datetime, guard: Guard | None = None
) -> Decision:
    """Decide whether an alert of a trigger leads to a rollback.

    A trigger that caused a rollback less than its cooldown ago is held: if the version that traffic went to raises the
    same alert, the version is hardly the cause.
    """
    if trigger is None:
        return Hold(None, "No declared trigger raised this alert.")
    if trigger.action != "automatic":
        return Hold(None, f"The policy declares {trigger.name} as manual: an operator decides.")
    # A clock that was ahead and is right again must not hold rollbacks until the time that it showed.
    rollbacks = [rollback for rollback in past if rollback.at - now < CLOCK_SKEW]
    limit = guard or Guard()
    last = max((rollback.at for rollback in rollbacks if rollback.trigger == trigger.name), default=None)
    if last is not None and now - last < timedelta(seconds=trigger.cooldown_s):
        since = (now - last).total_seconds()
        return Hold(
            "cooldown", f"{trigger.name} caused a rollback {since:.0f} s ago; its cooldown is {trigger.cooldown_s:g} s."
        )
    recent = [rollback for rollback in rollbacks if now - rollback.at < timedelta(seconds=limit.within_s)]
    if len(recent) >= limit.most:
        return Hold(
            "too_many_rollbacks",
            f"{len(recent)} automatic rollbacks within {limit.within_s:g} s; the limit is {limit.most}.",
        )
    return RollBack()


def rollback_id(cause_id: str) -> str:
    """Return the id of the rollback that an event or a signed order leads to: always the same one."""
    return "rb-" + hashlib.sha256(cause_id.encode()).hexdigest()[:16]
