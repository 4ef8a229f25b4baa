"""Data of a model's shadow: candidate, evidence so far, deadline. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from services.console.domain.rows import instant
from services.console.domain.screens import ShadowProgress


def shadow_of(target: str, share: float, release_id: str | None, events: Sequence[Event[Any]]) -> ShadowProgress:
    """Return a candidate's shadow progress.

    Args:
        target: The candidate.
        share: Share of the active version's requests that is copied to it.
        release_id: Its release; None if unknown.
        events: The release's events, in order of time.
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
        deadline_at=instant(_deadline(events)),
    )


def _fewest(events: Sequence[Event[Any]]) -> int | None:
    opened = next((event.data for event in events if isinstance(event.data, f.ReleaseOpened)), None)
    policy = opened.policy.shadow if opened is not None else None
    return None if policy is None else policy.min_requests


def _deadline(events: Sequence[Event[Any]]) -> datetime | None:
    """Return a shadow's deadline; None while its release is paused or if unknown."""
    progress = (event.data.progress for event in reversed(events) if isinstance(event.data, f.ReleaseProgressed))
    newest = next(progress, None)
    return None if newest is None else newest.deadline_at
