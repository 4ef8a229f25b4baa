"""Whether a fact leads back: pure edits of the record; a fact that comes again changes nothing."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from contracts.facts import (
    AlertRaised,
    AlertUpdated,
    CanaryAssessed,
    ReleaseFinished,
    ReleaseOpened,
    RollbackFailed,
    RollbackOrdered,
    RollbackStarted,
    RollbackTimeline,
)
from contracts.outbox import outgoing
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.orders import assess_epoch, assess_expiry, expiry
from decisions.rollback import Guard, PastRollback, RollBack, decide_rollback
from services.rollback_controller.domain.record import (
    HELD_KEPT,
    ROLLBACKS_KEPT,
    VERSIONS_KEPT,
    Book,
    Rollback,
    rollback_id,
)


@dataclass(frozen=True)
class Rules:
    """How the controller decides, the same for every model.

    Attributes:
        retry_s: after how long an alert that goes on may ask again, when the way back could not be walked.
        afresh_s: how long after a rollback an order must name what it means.
        verify_requests: how many requests after the switch are looked at.
        verify_s: how long they are waited for.
        alert_s: how long after it was said an alert may ask; one that lasts is said again.
        decided_s: how long after its decision a rollback may move traffic, as after an outage of the controller.
    """

    guard: Guard = field(default_factory=Guard)
    retry_s: float = 10.0
    afresh_s: float = 120.0
    verify_requests: int = 5
    verify_s: float = 30.0
    alert_s: float = 900.0
    decided_s: float = 900.0


@dataclass(frozen=True)
class Cause:
    """The fact that asks, when it was said, and when it is decided.

    Attributes:
        stored_at: when the stream stored it, by the server's clock; None: when it was said.
        sequence: its place in the stream.
    """

    fact_id: str
    correlation_id: str
    said_at: datetime
    now: datetime
    stored_at: datetime | None = None
    sequence: int = 0

    @property
    def earliest(self) -> datetime:
        """The earlier of the times that publisher and server give: a wrong clock makes no fact younger."""
        return min(self.said_at, self.stored_at or self.said_at)


@dataclass(frozen=True)
class NotServing:
    """An order that is void: for what takes no traffic, too old, of another epoch, or not clear in what it means."""

    reason: str
    code: Literal["not_in_traffic", "order_expired", "stale_epoch"] = "not_in_traffic"


def learn(book: Book, opened: ReleaseOpened) -> Book:
    """Remember the triggers that a version was released under; the first word about a version stands."""
    key = str(opened.version)
    if key in book.triggers:
        return book
    known = {**book.triggers, key: opened.policy.triggers}
    for old in sorted(known, key=int)[: max(0, len(known) - VERSIONS_KEPT)]:
        del known[old]
    return book.model_copy(update={"triggers": known})


def take_alert(book: Book, alert: AlertRaised | AlertUpdated, route: Route | None, cause: Cause, rules: Rules) -> Book:
    """Decide what an alert leads to; one that is old, or about an earlier time of its target, leads nowhere."""
    if not is_present(book, alert.target, route, cause, rules) or not _may_ask(book, alert, cause, rules):
        return book
    if book.environment == "staging" and book.rehearsing not in ("", alert.trigger):
        return book
    trigger = book.trigger(alert.target, alert.trigger)
    decision = decide_rollback(trigger, _past(book), cause.now, rules.guard)
    timeline = RollbackTimeline(
        first_bad_at=alert.first_bad_at, detected_at=alert.raised_at or cause.said_at, decided_at=cause.now
    )
    started = Rollback(
        rollback_id=rollback_id(cause.fact_id),
        cause_id=cause.fact_id,
        correlation_id=cause.correlation_id,
        asked="alert",
        mode="automatic",
        failed=alert.target,
        timeline=timeline,
        reason=alert.message,
        alert_id=alert.alert_id,
        trigger=alert.trigger or "",
        cause_sequence=cause.sequence,
    )
    if isinstance(decision, RollBack):
        return _start(book, started)
    if decision.code is None or book.held.get(alert.alert_id) == decision.code:
        return book
    held = dict([*book.held.items(), (alert.alert_id, decision.code)][-HELD_KEPT:])
    failed = RollbackFailed(
        rollback_id=started.rollback_id,
        cause_id=started.cause_id,
        failed=started.failed,
        mode="automatic",
        timeline=timeline,
        code=decision.code,
        reason=decision.reason,
    )
    said = outgoing(
        failed, key=started.rollback_id, cause_id=cause.fact_id, correlation_id=cause.correlation_id, at=cause.now
    )
    return book.model_copy(update={"held": held, "outbox": (*book.outbox, said)})


def take_order(
    book: Book, order: RollbackOrdered, route: Route | None, cause: Cause, rules: Rules
) -> Book | NotServing:
    """Begin what a person ordered; neither cooldown nor guard hold it."""
    if book.rollback(rollback_id(cause.fact_id)) is not None:
        return book
    void = _void(book, order, route, cause)
    if void is not None:
        return void
    active = route.active.target if route is not None and route.active is not None else None
    failed = order.failed or active
    if failed is None or not is_serving(route, failed):
        what = f"{failed} takes no traffic" if failed else f"nothing serves {book.model}"
        return NotServing(f"{what}; there is nothing to take back.")
    moved = [one.timeline.switched_at for one in book.rollbacks if one.timeline.switched_at is not None]
    if order.failed is None and moved and cause.now - max(moved) < timedelta(seconds=rules.afresh_s):
        return NotServing(
            f"Traffic of {book.model} was taken back a moment ago, to {active}; name the target that is to go."
        )
    started = Rollback(
        rollback_id=rollback_id(cause.fact_id),
        cause_id=cause.fact_id,
        correlation_id=cause.correlation_id,
        asked="order",
        mode="manual",
        failed=failed,
        to_version=order.to_version,
        expires_at=expiry(cause.said_at, cause.stored_at or cause.said_at, order.expires_at),
        epoch=order.epoch,
        timeline=RollbackTimeline(detected_at=cause.said_at, decided_at=cause.now),
        reason=f"{order.actor}: {order.reason}",
    )
    return _start(book, started)


def _void(book: Book, order: RollbackOrdered, route: Route | None, cause: Cause) -> NotServing | None:
    old = assess_expiry(cause.said_at, cause.stored_at or cause.said_at, order.expires_at, cause.now)
    if old is not None:
        return NotServing(old, "order_expired")
    other = assess_epoch(order.epoch, route.epoch if route is not None else None, book.model)
    return NotServing(other, "stale_epoch") if other is not None else None


def void_since(started: Rollback, route: Route, now: datetime) -> NotServing | None:
    """Return why the order of a rollback that was decided and not carried out is void by now; None while it counts."""
    if started.expires_at is not None and now >= started.expires_at:
        until = started.expires_at.isoformat(timespec="seconds")
        return NotServing(f"The order counted until {until} and was not carried out by then.", "order_expired")
    other = assess_epoch(started.epoch, route.epoch, route.model)
    return NotServing(other, "stale_epoch") if other is not None else None


def take_assessment(book: Book, fact: CanaryAssessed, route: Route | None, cause: Cause) -> Book:
    """Take a canary that failed its test out of traffic."""
    on_trial = trial_of(route)
    if fact.verdict != "fail" or on_trial != fact.target:
        return book
    return _abort(book, fact.target, "canary", f"The canary failed: {fact.reason}", cause)


def take_finish(book: Book, fact: ReleaseFinished, route: Route | None, cause: Cause) -> Book:
    """Take the canary of a release that ended otherwise than promoted out of traffic."""
    on_trial = trial_of(route)
    if fact.outcome == "promoted" or on_trial is None or on_trial.version != fact.version:
        return book
    return _abort(book, on_trial, "release", f"Its release ended as {fact.outcome}: {fact.reason}", cause)


def is_present(book: Book, target: Target, route: Route | None, cause: Cause, rules: Rules) -> bool:
    """Return whether an alert is about now: said lately, of what takes traffic, and not taken back since."""
    lately = cause.now - cause.earliest < timedelta(seconds=rules.alert_s)
    switches = [one.timeline.switched_at for one in book.rollbacks if one.failed == target]
    since = any(switched_at is not None and switched_at > cause.earliest for switched_at in switches)
    return lately and not since and is_serving(route, target)


def is_serving(route: Route | None, target: Target) -> bool:
    """Return whether a target takes traffic, all or on trial."""
    active = route is not None and route.active is not None and route.active.target == target
    return active or trial_of(route) == target


def trial_of(route: Route | None) -> Target | None:
    """Return the canary that takes traffic."""
    canary = route.canary if route is not None else None
    return canary.served.target if canary is not None and canary.weight_ratio > 0.0 else None


def _may_ask(book: Book, alert: AlertRaised | AlertUpdated, cause: Cause, rules: Rules) -> bool:
    """Return whether an alert asks for something new: not for what is under way, or failed a moment ago."""
    mine = [one for one in book.rollbacks if one.alert_id == alert.alert_id]
    if any(one.state != "failed" for one in mine) or book.rollback(rollback_id(cause.fact_id)) is not None:
        return False
    under_way = any(one.state == "decided" and one.failed == alert.target for one in book.rollbacks)
    last = max((one.timeline.decided_at or one.timeline.detected_at for one in mine), default=None)
    return not under_way and (last is None or cause.now - last >= timedelta(seconds=rules.retry_s))


def _past(book: Book) -> list[PastRollback]:
    return [
        PastRollback(one.trigger, one.timeline.switched_at)
        for one in book.rollbacks
        if one.mode == "automatic" and one.trigger and one.timeline.switched_at is not None
    ]


def _abort(book: Book, target: Target, asked: str, reason: str, cause: Cause) -> Book:
    if any(one.failed == target and one.state == "decided" for one in book.rollbacks):
        return book
    started = Rollback.model_validate(
        {
            "rollback_id": rollback_id(cause.fact_id),
            "cause_id": cause.fact_id,
            "asked": asked,
            "correlation_id": cause.correlation_id,
            "mode": "automatic",
            "failed": target,
            "reason": reason,
            "timeline": RollbackTimeline(detected_at=cause.said_at, decided_at=cause.now),
        }
    )
    return book if book.rollback(started.rollback_id) is not None else _start(book, started)


def _start(book: Book, started: Rollback) -> Book:
    fact = RollbackStarted(
        rollback_id=started.rollback_id,
        cause_id=started.cause_id,
        failed=started.failed,
        mode=started.mode,
        timeline=started.timeline,
    )
    said = outgoing(
        fact,
        key=started.rollback_id,
        cause_id=started.cause_id,
        correlation_id=started.correlation_id,
        at=started.timeline.decided_at or started.timeline.detected_at,
    )
    kept = (*book.rollbacks, started)[-ROLLBACKS_KEPT:]
    return book.model_copy(update={"rollbacks": kept, "outbox": (*book.outbox, said)})
