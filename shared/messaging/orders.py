"""Orders of operators: created, checked, and answered if refused."""

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from contracts.envelope import Event, source_of
from contracts.facts import Fact, OrderRefused
from contracts.teams import Team
from decisions.access.teams import find_foreign
from decisions.rollback.orders import assess_epoch, assess_expiry
from shared.errors import Permanent, SlipwayError


def new_order(sender: str, model: str, fact: Fact, *, now: datetime, release_id: str | None = None) -> Event[Any]:
    """Return the event of a person's order; without a release, its own id is the correlation id."""
    order_id = str(uuid.uuid4())
    return Event[Any](
        id=order_id,
        source=source_of(sender),
        type=fact.TYPE,
        subject=model,
        time=now,
        correlationid=release_id or order_id,
        data=fact,
    )


def check_age(event: Event[Any], stored_at: datetime, now: datetime, *, until: datetime | None = None) -> None:
    """Raise Permanent `order_expired` for an expired order.

    Args:
        event: The order.
        stored_at: Storage time in the stream.
        now: The time.
        until: Expiry in the order; None if it names none.
    """
    reason = assess_expiry(event.time, stored_at, until, now)
    if reason is not None:
        raise Permanent("order_expired", reason)


def check_epoch(event: Event[Any], current: int | None) -> None:
    """Raise Permanent `stale_epoch` if an order's epoch is not the route's."""
    reason = assess_epoch(event.data.epoch, current, event.subject)
    if reason is not None:
        raise Permanent("stale_epoch", reason)


def check_sender(event: Event[Any], teams: Iterable[Team]) -> None:
    """Raise Permanent `team_mismatch` unless the sender's team owns the model now."""
    reason = find_foreign(event.sender, event.subject, teams)
    if reason is not None:
        raise Permanent("team_mismatch", reason, sender=event.sender, model=event.subject)


def order_refused(event: Event[Any], error: SlipwayError) -> OrderRefused:
    """Return the fact for a refused order."""
    return OrderRefused(
        order_id=event.id,
        order_type=event.type,
        code=error.code,
        reason=error.sentence(),
    )
