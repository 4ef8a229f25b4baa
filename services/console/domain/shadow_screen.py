"""The shadow of a model: which candidate is asked unseen, how far its evidence is, and when its time is over. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from decisions.calendar import later
from decisions.release_holds import HoldOrder, newest_hold, start_of_deadline
from services.console.domain.rows import instant
from services.console.domain.screens import ShadowProgress


def shadow_of(
    target: str, share: float, release_id: str | None, began_at: datetime | None, events: Sequence[Event[Any]]
) -> ShadowProgress:
    """Return the shadow of a candidate.

    Args:
        target: The candidate.
        share: The share of the active version's requests that it is asked, too.
        release_id: Its release; None if that is not known.
        began_at: When its route was edited.
        events: The events of the release, in the order of time.
    """
    last = next((event.data for event in reversed(events) if isinstance(event.data, f.ShadowAssessed)), None)
    return ShadowProgress(
        target=target,
        share=share,
        release_id=release_id,
        requests=last.requests if last is not None else 0,
        requests_needed=last.requests_needed if last is not None else _fewest(events),
        seconds_needed=last.seconds_needed if last is not None else None,
        verdict=last.verdict if last is not None else "waiting",
        deadline_at=instant(_deadline(began_at, events)),
    )


def _policy(events: Sequence[Event[Any]]) -> Any:
    opened = next((event.data for event in events if isinstance(event.data, f.ReleaseOpened)), None)
    return opened.policy.shadow if opened is not None else None


def _fewest(events: Sequence[Event[Any]]) -> int | None:
    policy = _policy(events)
    return None if policy is None else policy.min_requests


def _deadline(began_at: datetime | None, events: Sequence[Event[Any]]) -> datetime | None:
    """Return when the time of a shadow is over; None while its release is paused, and if that is not known."""
    policy = _policy(events)
    held = newest_hold(
        HoldOrder(event.time, event.id, event.data.paused) for event in events if isinstance(event.data, f.ReleaseHeld)
    )
    if policy is None or began_at is None or (held is not None and held.paused):
        return None
    return later(start_of_deadline(began_at, held), policy.deadline_s)
