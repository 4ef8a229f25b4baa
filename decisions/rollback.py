"""When a declared trigger leads back by itself: what a policy's `action` and `cooldown_s` mean, as a pure function.

The rollback-controller asks it for every alert; `slipway replay` asks the same of recorded ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.policy import Trigger


@dataclass(frozen=True)
class PastRollback:
    """An automatic rollback that was carried out."""

    trigger: str
    at: datetime


@dataclass(frozen=True)
class Guard:
    """What keeps automatic rollbacks from flapping: at most so many within so many seconds."""

    most: int = 3
    within_s: float = 3600.0


@dataclass(frozen=True)
class GoBack:
    """Automatic rollback, now."""


@dataclass(frozen=True)
class Hold:
    """No automatic rollback, and why; `code` is None where the policy never asked for one."""

    code: Literal["cooldown", "too_many_rollbacks"] | None
    reason: str


Decision = GoBack | Hold


def decide_way_back(
    trigger: Trigger | None, past: Iterable[PastRollback], now: datetime, guard: Guard | None = None
) -> Decision:
    """Decide what an alert of a trigger leads to.

    A trigger that led back less than its cooldown ago is held: if the version that traffic went to shows the same, the
    cause is hardly the version.
    """
    if trigger is None:
        return Hold(None, "No declared trigger stands behind this alert.")
    if trigger.action != "automatic":
        return Hold(None, f"The policy declares {trigger.name} as manual: a person decides.")
    rollbacks, limit = tuple(past), guard or Guard()
    last = max((one.at for one in rollbacks if one.trigger == trigger.name), default=None)
    if last is not None and now - last < timedelta(seconds=trigger.cooldown_s):
        since = (now - last).total_seconds()
        return Hold("cooldown", f"{trigger.name} led back {since:.0f} s ago; its cooldown is {trigger.cooldown_s:g} s.")
    recent = [one for one in rollbacks if now - one.at < timedelta(seconds=limit.within_s)]
    if len(recent) >= limit.most:
        return Hold("too_many_rollbacks", f"{len(recent)} automatic rollbacks within {limit.within_s:g} s are enough.")
    return GoBack()
