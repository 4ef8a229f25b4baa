"""What a rehearsal injects, and what it proved. Pure."""

from datetime import datetime, timedelta

from contracts.facts import DrillFault, RehearsalCertificate, RehearsalCompleted, RehearsalRequested
from contracts.policy import Trigger
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Digest
from services.rollback_controller.domain.record import REHEARSALS_KEPT, Book, Rollback


def declared_fault(trigger: Trigger) -> DrillFault | None:
    """Return the fault that a trigger must notice; None for what no fault of seconds can show.

    Every touched request is bad without doubt: latencies come out at twice the threshold and more.
    """
    if trigger.metric in ("ttft_ms", "e2e_ms"):
        return DrillFault(delay_ms=min(int(2 * trigger.threshold) + 100, 600_000))
    return {
        "error_ratio": DrillFault(error_ratio=1.0),
        "empty_ratio": DrillFault(answer="empty"),
        "refusal_ratio": DrillFault(answer="refusal"),
        "repetition_ratio": DrillFault(garble=True),
    }.get(trigger.metric)


def describe(fault: DrillFault) -> str:
    """Name a fault as the command line takes it."""
    told = {
        f"delay_ms={fault.delay_ms}": fault.delay_ms,
        f"error_ratio={fault.error_ratio:g}": fault.error_ratio,
        "garble": fault.garble,
        f"answer={fault.answer}": fault.answer,
    }
    return " ".join(name for name, on in told.items() if on)


def staging_route(
    before: Route | None, model: str, candidate: ServedTarget | None, fallback: ServedTarget | None, *, cause_id: str
) -> Route:
    """Return the route of staging as a rehearsal begins: the candidate serves, the fallback is hot behind it."""
    epoch = before.epoch + 1 if before is not None else 1
    return Route(model=model, epoch=epoch, active=candidate, previous=fallback, cause_id=cause_id)


def begin(book: Book, trigger: str) -> Book:
    """Forget earlier rehearsals in staging's record: their cooldowns are not those of production."""
    return book.model_copy(update={"rehearsing": trigger, "rollbacks": (), "held": {}})


def ask(book: Book, requested: RehearsalRequested) -> Book:
    """Remember what is to be rehearsed for a release."""
    if requested.release_id in book.rehearsals:
        return book
    kept = dict([*book.rehearsals.items(), (requested.release_id, requested)][-REHEARSALS_KEPT:])
    return book.model_copy(update={"rehearsals": kept})


def conclude(book: Book, completed: RehearsalCompleted) -> Book:
    """Keep the outcome: whoever asks again gets the same."""
    if completed.release_id in book.rehearsed:
        return book
    kept = dict([*book.rehearsed.items(), (completed.release_id, completed)][-REHEARSALS_KEPT:])
    return book.model_copy(update={"rehearsed": kept})


def alarmed(book: Book, trigger: Trigger) -> Rollback | None:
    """Return the rollback that this trigger led to in staging, if any."""
    return next((one for one in book.rollbacks if one.trigger == trigger.name), None)


def certify(
    trigger: Trigger,
    fault: DrillFault,
    one: Rollback,
    injected_at: datetime,
    *,
    candidate: Digest,
    fallback: Digest,
    policy: Digest | None,
    expires_at: datetime,
) -> RehearsalCertificate | str:
    """Return the certificate of a way back that was walked to its end, or say what is missing."""
    timeline = one.timeline
    if policy is None:
        return "The request does not name the policy that it is rehearsed for."
    if one.state == "failed":
        return f"{trigger.name}: the alert came, but the way back failed ({one.code})."
    if timeline.switched_at is None:
        return f"{trigger.name}: the alert came, but traffic was not switched in time."
    if timeline.detected_at < injected_at:
        return f"{trigger.name}: the alert came before the fault; its threshold is too tight for healthy traffic."
    if one.verdict != "pass" or timeline.verified_at is None:
        verdict = one.verdict or "no verdict"
        return f"{trigger.name}: traffic was switched, but the fallback was not verified ({verdict})."
    return RehearsalCertificate(
        trigger=trigger.name,
        fault=describe(fault),
        injected_at=injected_at,
        alert_event_id=one.cause_id,
        route_event_id=one.route_event_id,
        detect_s=_seconds(timeline.detected_at - injected_at),
        switch_s=_seconds(timeline.switched_at - timeline.detected_at),
        verify_s=_seconds(timeline.verified_at - timeline.switched_at),
        candidate_digest=candidate,
        fallback_digest=fallback,
        policy_digest=policy,
        expires_at=expires_at,
    )


def _seconds(span: timedelta) -> float:
    return round(span.total_seconds(), 3)
