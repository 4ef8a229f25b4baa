"""Whether an alert leads to an automatic rollback: the meaning of a trigger's `action` and `cooldown_s`.

The rollback-controller decides every alert with it, `slipway replay` the recorded ones.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.facts import AlertUpdated, DeathCounts, SliceVerdict
from contracts.facts.watch import Confirmation
from contracts.policy import Trigger
from decisions.alerts import AlertFact
from decisions.orders import CLOCK_SKEW
from decisions.probed import Shown
from decisions.triggers import kind_of


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

    code: Literal["cooldown", "too_many_rollbacks", "unconfirmed"] | None
    reason: str
    is_both_slow: bool = False


@dataclass(frozen=True)
class StartSlice:
    """No rollback yet: a slice of live traffic on the previous version decides."""


Decision = RollBack | Hold | StartSlice
BOTH_SLOW = timedelta(seconds=60)
"""How long a rollback is held while both versions are slow on hardware that they do not share."""
UNREPORTED_S = 10.0
"""How long gateways have to report the death of an engine that answers a probe with an error."""
DEAD_S = 60.0
"""How long an engine that callers may have killed may take to be loaded again before it is rolled back."""


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
    since = None if last is None else (now - last).total_seconds()
    if since is not None and since < trigger.cooldown_s:
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


@dataclass(frozen=True)
class Doubt:
    """What is known of who caused an alert.

    Attributes:
        confirmed_by: What its evidence shows.
        shown: What probes showed; None if nothing was probed, or no two probes agree.
        is_apart: The previous version stands on other hardware.
        raised_at: When the alert was raised.
        deaths: Deaths of the target's engine.
        told_at: When the alert was stored, by the clock of the bus, which dates it and deaths, too; None if unknown.
        failing_since: Since when probes show the target although its engine answers callers, as far as is known, or
            no death of it is known; None if they do not.
        is_gone: Probes of the target met errors at once, as of an engine that has died.
        golden: What golden prompts show; None if they were not asked lately.
        load_rose: The load that callers offer has risen.
        held_at: Since when a rollback of the target is held because both versions are slow; None if none is.
        can_slice: A share of the live traffic may go to the previous version, which answers probes.
        is_sliced: It goes there now.
        slice: What the slice showed; None before it has ended.
    """

    confirmed_by: Confirmation | None = None
    shown: Shown | None = None
    is_apart: bool = False
    raised_at: datetime | None = None
    deaths: DeathCounts | None = None
    told_at: datetime | None = None
    failing_since: datetime | None = None
    is_gone: bool = False
    golden: Shown | None = None
    load_rose: bool = False
    held_at: datetime | None = None
    can_slice: bool = False
    is_sliced: bool = False
    slice: SliceVerdict | None = None


def decide_confirmed(
    decision: Decision, doubt: Doubt, trigger: Trigger | None, now: datetime, dead_s: float = DEAD_S
) -> Decision:
    """Hold a rollback while nothing shows that the version is the cause, and not its callers or its machine.

    Both sides slow: on the same hardware the version may be what slows it, so that traffic moves at once, unless the
    load that callers offer has risen. Then, and where the previous one stands apart, something else may be the cause,
    whatever pairs show: the rollback is held for at most `BOTH_SLOW`, and a slice of live traffic decides.
    A dead engine answers no probe: where callers may have killed it, it has `dead_s` to be loaded again. If it answers
    callers, as far as the alert says, it may have died since: probes must fail for as long. Where no death is known and
    probes meet errors at once, it may have died a moment ago: the next update of the alert says so.
    """
    if not isinstance(decision, RollBack) or trigger is None:
        return decision
    if kind_of(trigger) == "quality" and doubt.confirmed_by == "none":
        return _decide_quality(decision, doubt, trigger)
    if doubt.shown == "target":
        return _decide_dead(doubt, now, dead_s) if doubt.confirmed_by == "none" else decision
    if doubt.shown == "both" and can_hold(doubt.confirmed_by, trigger) and kind_of(trigger) == "latency":
        return _decide_both_slow(decision, doubt, now)
    if doubt.confirmed_by != "none":
        return decision
    asked = "Our own probes do not show it either." if doubt.shown is not None else "Probes show nothing of it."
    return Hold(
        "unconfirmed", f"Nothing shows that the version is the cause of {trigger.name}, and not its callers. {asked}"
    )


def has_recovered(alert: AlertFact) -> bool:
    """Return whether an alert that lasts is within its limit by now, so that an update of it starts no rollback.

    A window without requests is within any limit: if bad ones come again, the next update exceeds it. Evidence fades
    with requests, not with time: a model with few of them is still confirmed long after a blip. An alert that is raised
    is decided at once, also a hard failure, which exceeds its limit soon if it lasts. One of errors or quality that
    pairs confirm needs no limit to be exceeded; a canary that is worse than the active version is ended by its
    assessment.
    """
    if not isinstance(alert, AlertUpdated) or alert.limit is None:
        return False
    if alert.confirmed_by == "pairs" and alert.kind != "latency":
        return False
    return alert.value is None or alert.value <= alert.limit


def can_hold(confirmed_by: Confirmation | None, trigger: Trigger) -> bool:
    """Return whether probes can hold a rollback: pairs alone do not show what a version's load does."""
    return confirmed_by == "none" or (confirmed_by == "pairs" and kind_of(trigger) == "latency")


def _decide_quality(decision: RollBack, doubt: Doubt, trigger: Trigger) -> Decision:
    """Return whether a quality trigger that no pairs confirm rolls back: only golden prompts can show it then."""
    asked = {
        "target": "",
        "both": "The previous version fails the same golden prompts.",
        "neither": "Golden prompts do not show it either.",
        None: "No golden prompts were asked lately.",
    }[doubt.golden]
    if doubt.golden == "target":
        return decision
    return Hold("unconfirmed", f"No pairs show that the version is the cause of {trigger.name}. {asked}")


def _decide_dead(doubt: Doubt, now: datetime, dead_s: float) -> Decision:
    """Return whether a target that fails probes is rolled back, also one that is too slow or gives no answer."""
    deaths = doubt.deaths
    if deaths is None and doubt.is_gone and dead_s > 0:
        return _decide_unreported(doubt, now)
    if deaths is None or not deaths.explained or dead_s <= 0:
        return RollBack()
    since, until = (deaths.dead_since, doubt.told_at or now) if deaths.dead_since else (doubt.failing_since, now)
    if since is not None and until - since >= timedelta(seconds=dead_s):
        return RollBack()
    return Hold(
        "unconfirmed",
        f"The engine died within the last hour, and requests of few callers may be the cause; it is rolled back if it "
        f"stays dead, or fails probes, for {dead_s:g} s.",
    )


def _decide_unreported(doubt: Doubt, now: datetime) -> Decision:
    """Return whether a target is rolled back whose engine fails probes though no death of it is known.

    A caller can kill it between its alert and the probes, and gateways report that later. What counts is the time of
    the alert's update: if the monitor knows of no death `UNREPORTED_S` after probes began to fail, there was none.
    """
    if doubt.failing_since is not None:
        failing = (doubt.told_at or now) - doubt.failing_since
        if failing >= timedelta(seconds=UNREPORTED_S):
            return RollBack()
    return Hold(
        "unconfirmed",
        "The engine fails probes, and may have died a moment ago, of a request; it is rolled back with an update of "
        "the alert if it still fails them and no death is reported.",
    )


def _decide_both_slow(decision: RollBack, doubt: Doubt, now: datetime) -> Decision:
    if doubt.held_at is None and not (doubt.is_apart or doubt.load_rose):
        return decision
    if doubt.slice == "both":
        return Hold("unconfirmed", "The previous version was as slow in a slice of live traffic.", is_both_slow=True)
    if doubt.slice is not None:
        return decision
    if doubt.is_sliced:
        return Hold(
            "unconfirmed", "A slice of live traffic on the previous version is being measured.", is_both_slow=True
        )
    since = min((at for at in (doubt.raised_at, doubt.held_at) if at is not None), default=None)
    if since is not None and (doubt.told_at or now) - since >= BOTH_SLOW:
        return StartSlice() if doubt.can_slice else decision
    why = "on other hardware" if doubt.is_apart else "and callers offer more load than before"
    reason = f"The previous version is slow, too, {why}; held for at most {BOTH_SLOW.total_seconds():.0f} s."
    return Hold("unconfirmed", reason, is_both_slow=True)


def rollback_id(cause_id: str) -> str:
    """Return the id of the rollback that an event or a signed order leads to: always the same one."""
    return "rb-" + hashlib.sha256(cause_id.encode()).hexdigest()[:16]
