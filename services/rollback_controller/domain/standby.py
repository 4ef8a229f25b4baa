"""The verdict on the target that production can be rolled back to, and the alert about it. Pure."""

from datetime import datetime

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Digest, digest_of
from decisions.evidence.alerts import PlainAlert
from decisions.releases.provenance import Problem
from services.rollback_controller.domain.record import RollbackState, StandbyVerdict, with_entries


def subject_digest(served: ServedTarget) -> Digest:
    """Return the digest of what a verdict is about: the manifest, and the settings that it is served with."""
    settings = "" if served.serving is None else served.serving.model_dump_json()
    return digest_of(f"{served.manifest.digest} {settings}".encode())


def is_due(state: RollbackState, route: Route | None, trust: Digest) -> ServedTarget | None:
    """Return the target behind the active one if there is no verdict on it by the keys that are listed now."""
    previous = route.previous if route is not None else None
    if previous is None:
        return None
    kept = state.standby
    if kept is not None and (kept.target, kept.subject, kept.trust) == (
        previous.target,
        subject_digest(previous),
        trust,
    ):
        return None
    return previous


def record_verdict(
    state: RollbackState, served: ServedTarget, problem: Problem | None, trust: Digest, now: datetime
) -> RollbackState:
    """Return the record with a verdict, and with the alert that it raises, or that ends by it."""
    before = state.standby
    is_open = before is not None and before.raised_at is not None
    about_same = before is not None and before.target == served.target
    after = StandbyVerdict(
        target=served.target,
        subject=subject_digest(served),
        trust=trust,
        code=problem.code if problem is not None else None,
        raised_at=before.raised_at if before is not None and is_open and about_same and problem is not None else None,
    )
    if before is not None and is_open and after.raised_at is None:
        why = "proven" if about_same else "no longer the target to roll back to"
        state = with_entries(state, _about(state, before).entry("resolved", f"{before.target} is {why}.", now))
    if problem is not None and after.raised_at is None:
        after = after.model_copy(update={"raised_at": now})
        message = (
            f"{served.target}, the target to roll back to, is not proven: {problem.reason} Rollback stays armed: the "
            "target was proven before it was loaded, and is not unloaded."
        )
        state = with_entries(state, _about(state, after).entry("raised", message, now))
    return state.model_copy(update={"standby": after})


def clear(state: RollbackState, now: datetime) -> RollbackState:
    """Return the record without a verdict, where nothing is behind the active target any more."""
    before = state.standby
    if before is None:
        return state
    if before.raised_at is not None:
        message = f"{before.target} is no longer the target to roll back to."
        state = with_entries(state, _about(state, before).entry("resolved", message, now))
    return state.model_copy(update={"standby": None})


def _about(state: RollbackState, verdict: StandbyVerdict) -> PlainAlert:
    assert verdict.raised_at is not None  # noqa: S101 - there is an alert
    alert_id = f"provenance-standby-{verdict.target}"
    return PlainAlert(alert_id, "provenance", "warning", verdict.target, verdict.raised_at, state.environment)
