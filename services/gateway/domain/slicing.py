"""Draws the requests of a slice, which the previous version answers, by the gateway's own id of the request. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.routes import Route
from contracts.slices import LONGEST, Slice
from services.gateway.domain import pairing
from services.gateway.domain.requests import ParsedRequest
from services.gateway.domain.routing import Choice
from services.gateway.domain.sampling import fraction


@dataclass(frozen=True)
class KnownSlice:
    """A slice as one gateway knows it.

    Attributes:
        until_s: Its end on the monotonic clock: setting the wall clock back does not extend it.
    """

    slice: Slice
    until_s: float


def note_slice(received: Slice, now: datetime, now_s: float) -> KnownSlice:
    """Return a slice with its end on the monotonic clock, at most `LONGEST` from now."""
    remaining = min(received.expires_at - now, received.starts_at - now + LONGEST, LONGEST)
    return KnownSlice(received, now_s + max(timedelta(), remaining).total_seconds())


def is_active(known: KnownSlice, now: datetime, now_s: float) -> bool:
    """Return whether a slice lasts by both clocks; the earlier end counts."""
    return known.slice.share_ratio > 0.0 and now_s < known.until_s and now < known.slice.expires_at


def draw_side(drawn: Slice, route: Route, choice: Choice, parsed: ParsedRequest, draw_id: str) -> Choice:
    """Return the target that answers a request during a slice, labelled if either version could; else the choice.

    The slice counts while the versions that it names are active and behind: whatever changes the route ends it. What
    names a version, or depends on what one engine keeps, stays where it was sent.
    """
    active, behind = route.active, route.previous
    if active is None or behind is None or (active.target, behind.target) != (drawn.target, drawn.behind):
        return choice
    if choice.canary or choice.served.target != active.target or route.is_quarantined(behind.target):
        return choice
    if not pairing.may_mirror(parsed, active, behind):
        return choice
    elsewhere = fraction(f"{drawn.slice_id}|{draw_id}") < drawn.share_ratio
    return Choice(behind if elsewhere else active, slice_id=drawn.slice_id, drawn=elsewhere)
