"""How a rollback goes on after the decision: switched, verified on live traffic, or failed. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from contracts.codes import Code
from contracts.envelope import derived_id
from contracts.facts import DeploymentChanged, Fact, Inference, RollbackCompleted, RollbackFailed
from contracts.outbox import outgoing
from contracts.routes import Route
from contracts.vocabulary import Verdict
from decisions.attribution import is_excused
from decisions.triggers import CANCELLED, observe
from services.rollback_controller.domain.decision import Rules
from services.rollback_controller.domain.record import Book, Rollback


def to_carry_out(book: Book) -> tuple[Rollback, ...]:
    """List what is decided and not done."""
    return tuple(one for one in book.rollbacks if one.state == "decided")


def to_verify(book: Book) -> tuple[Rollback, ...]:
    """List what is switched and not verified."""
    return tuple(one for one in book.rollbacks if one.state == "switched")


def switched(book: Book, rollback_id: str, route: Route, cause: Literal["rollback", "abort"], now: datetime) -> Book:
    """Note that traffic moved, and say so; once."""
    one = book.rollback(rollback_id)
    if one is None or one.state != "decided":
        return book
    fact = DeploymentChanged(route=route, cause=cause, at=now)
    changes = {
        "state": "switched",
        "to": route.active.target if route.active else None,
        "timeline": one.timeline.model_copy(update={"switched_at": now}),
        "route_event_id": derived_id(one.cause_id, DeploymentChanged.TYPE, one.rollback_id),
    }
    return _with(book, one, changes, fact, now)


def failed(book: Book, rollback_id: str, code: Code, reason: str, now: datetime) -> Book:
    """Note that the way back could not be walked, and say so; once."""
    one = book.rollback(rollback_id)
    if one is None or one.state != "decided":
        return book
    fact = RollbackFailed(
        rollback_id=one.rollback_id,
        cause_id=one.cause_id,
        failed=one.failed,
        mode=one.mode,
        timeline=one.timeline,
        code=code,
        reason=reason,
    )
    return _with(book, one, {"state": "failed", "code": code}, fact, now)


def take_records(book: Book, records: Sequence[Inference], now: datetime, rules: Rules) -> Book:
    """Look at live requests after a switch: enough of them tell whether it helped."""
    for one in to_verify(book):
        good, bad = _count(book, one, records)
        if not good and not bad:
            continue
        counted = one.model_copy(update={"good": one.good + good, "bad": one.bad + bad})
        if counted.good + counted.bad >= rules.verify_requests:
            verdict, reason = _judge(counted)
            book = _complete(book, counted, verdict, reason, now)
        else:
            book = _replace(book, counted)
    return book


def overdue(book: Book, now: datetime, rules: Rules) -> tuple[Rollback, ...]:
    """List the switched ones that too little traffic came for."""
    limit = timedelta(seconds=rules.verify_s)
    return tuple(one for one in to_verify(book) if now - (one.timeline.switched_at or now) >= limit)


def give_up_waiting(book: Book, rollback_id: str, *, answers: bool, now: datetime) -> Book:
    """End a verification that too little traffic came for; the switch stands."""
    one = book.rollback(rollback_id)
    if one is None or one.state != "switched":
        return book
    seen = one.good + one.bad
    traffic = f"{one.good} of {seen} requests were well" if seen else "No request came"
    probe = f"{one.to} answered a probe" if answers else f"{one.to} did not answer a probe"
    return _complete(book, one, "inconclusive" if answers else "fail", f"{traffic}; {probe}.", now)


def _count(book: Book, one: Rollback, records: Sequence[Inference]) -> tuple[int, int]:
    trigger = book.trigger(one.failed, one.trigger)
    good = bad = 0
    for record in records:
        since = one.timeline.switched_at
        if record.target != one.to or since is None or record.scheduled_at < since:
            continue
        if record.finish_reason == CANCELLED or is_excused(record):
            continue
        judged = observe(trigger, record) if trigger is not None and trigger.metric != "drift" else None
        is_bad = record.error is not None if judged is None else judged or record.error is not None
        good, bad = good + (not is_bad), bad + is_bad
    return good, bad


def _judge(one: Rollback) -> tuple[Verdict, str]:
    seen = one.good + one.bad
    if one.good * 2 > seen:
        return "pass", f"{one.good} of the first {seen} requests on {one.to} were well."
    return "fail", f"Only {one.good} of the first {seen} requests on {one.to} were well: it is hardly the version."


def _complete(book: Book, one: Rollback, verdict: Verdict, reason: str, now: datetime) -> Book:
    timeline = one.timeline.model_copy(update={"verified_at": now if verdict == "pass" else None})
    fact = RollbackCompleted(
        rollback_id=one.rollback_id,
        cause_id=one.cause_id,
        failed=one.failed,
        to=one.to,
        mode=one.mode,
        timeline=timeline,
        verdict=verdict,
        reason=reason,
    )
    return _with(book, one, {"state": "completed", "verdict": verdict, "timeline": timeline}, fact, now)


def _with(book: Book, one: Rollback, changes: dict[str, Any], fact: Fact, now: datetime) -> Book:
    said = outgoing(fact, key=one.rollback_id, cause_id=one.cause_id, correlation_id=one.correlation_id, at=now)
    book = _replace(book, one.model_copy(update=changes))
    return book.model_copy(update={"outbox": (*book.outbox, said)})


def _replace(book: Book, changed: Rollback) -> Book:
    kept = tuple(changed if one.rollback_id == changed.rollback_id else one for one in book.rollbacks)
    return book.model_copy(update={"rollbacks": kept})
