"""Operators' orders about a release: checks, and storage in the release's record."""

from typing import Any

from contracts.codes import Code
from contracts.facts import ApprovalDenied, ApprovalGranted, CanaryAdvanced, ReleaseCancelled, ReleaseHeld
from services.registry.domain import approvals, deadlines
from services.registry.domain.admission import Refusal
from services.registry.domain.record import (
    SHADOW,
    Advance,
    Approval,
    Cancellation,
    Denial,
    Hold,
    Input,
    Order,
    Release,
    weight_key,
)
from services.registry.domain.release_holds import newest_hold

Changes = dict[str, Any]
_NOT_APPLICABLE: Code = "not_applicable"


def assess_order(release: Release | None, order: Order, sender: str) -> Refusal | None:
    """Refuse an order that does not apply to the release in its current state.

    A redundant pause or resume is accepted: orders may arrive out of sequence, and the one stored last on the bus wins.
    A repeated approval by the same sender is accepted too.
    """
    if release is None:
        return Refusal(_NOT_APPLICABLE, f"There is no release {order.release_id} of this model.")
    if release.finished is not None:
        return Refusal(_NOT_APPLICABLE, f"The release {release.id} has ended as {release.finished.outcome}.")
    match order:
        case ApprovalGranted() | ReleaseCancelled() | ReleaseHeld():
            return None
        case ApprovalDenied():
            return _assess_denial(release)
        case _:
            return _assess_advance(release, order, sender)


def _assess_denial(release: Release) -> Refusal | None:
    if "approval.requested" in release.emitted and not is_past_approval(release):
        return None
    return Refusal(_NOT_APPLICABLE, f"The release {release.id} does not wait for an approval.")


def _assess_advance(release: Release, order: CanaryAdvanced, sender: str) -> Refusal | None:
    awaited = deadlines.awaited_key(release)
    if awaited is None or awaited != (weight_key(order.weight_ratio) if order.weight_ratio else SHADOW):
        shown = "no canary is under way" if awaited is None else f"the canary under way has {awaited}"
        return Refusal(
            _NOT_APPLICABLE, f"The order is for a canary with {order.weight_ratio:g} of the traffic; {shown}."
        )
    if release.policy.canary.on_deadline != "promote" and awaited not in release.overdue:
        reason = f"The policy of {release.id} has canary.on_deadline: ask, so a verdict is awaited until the deadline."
        return Refusal("promotion_not_allowed", reason)
    return approvals.assess_approval(release, sender)


def describe_order(release: Release, event_id: str) -> dict[str, Any]:
    """Return the details for an order's answer: author, time and reason of an effective pause or resume, else none."""
    hold = release.hold
    if hold is None or hold.event_id != event_id:
        return {}
    return {
        "paused": hold.order.paused,
        "by": hold.sender,
        "at": hold.at.isoformat(),
        "reason": hold.order.reason,
    }


def is_past_approval(release: Release) -> bool:
    """Return whether traffic was ordered, so that no approval is awaited any more."""
    return any(key.startswith("traffic.requested:") for key in release.emitted)


def keep_order(release: Release, order: Order, received: Input) -> Release | None:
    """Return the record with an order and its sender; None if nothing changes."""
    name, changes = _changes(release, order, received)
    if not changes:
        return None
    times = release.times if name in release.times else {**release.times, name: received.at}
    return release.model_copy(update={**changes, "times": times})


def _changes(release: Release, order: Order, received: Input) -> tuple[str, Changes]:
    sender = received.sender
    match order:
        case ReleaseCancelled():
            kept: Changes = {} if release.cancelled else {"cancelled": Cancellation(sender=sender, order=order)}
            return "cancelled", kept
        case ApprovalDenied():
            return "approval denied", {} if release.denied else {"denied": Denial(sender=sender, order=order)}
        case ReleaseHeld():
            hold = Hold(at=received.at, event_id=received.id, sender=sender, order=order)
            counts = newest_hold((release.hold_order, hold.as_order)) == hold.as_order
            return f"{'paused' if order.paused else 'resumed'}:{received.at:%H%M%S}", {"hold": hold} if counts else {}
        case CanaryAdvanced():
            key = weight_key(order.weight_ratio)
            advance = {**release.advanced, key: Advance(sender=sender, order=order)}
            return f"advanced:{key}", {} if key in release.advanced else {"advanced": advance}
        case _:
            return _approved(release, order, sender)


def _approved(release: Release, order: ApprovalGranted, sender: str) -> tuple[str, Changes]:
    """Keep an approval under the artifact digest that it names, once per sender."""
    digest = order.manifest_digest
    before = release.approvals.get(digest, ())
    if sender in {approval.sender for approval in before}:
        return "", {}
    kept = (*before, Approval(sender=sender, order=order))
    return f"approved:{digest[:15]}", {"approvals": {**release.approvals, digest: kept}}
