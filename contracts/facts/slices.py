"""A slice of live traffic on the previous version, as it starts and ends."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..vocabulary import Contract, Instant, Ratio, Target
from .fact import Fact


class SliceCounts(Contract):
    """Requests during a slice, and how many of them were bad for its trigger, on each version."""

    target_requests: int = 0
    target_bad: int = 0
    other_requests: int = 0
    other_bad: int = 0


SliceVerdict = Literal["target", "both", "unknown"]
"""What a slice shows: only the active version is bad, both are, or too little came of it."""


class SliceChanged(Fact):
    """A share of the callers' requests goes to the previous version for a short time, or no longer does.

    Attributes:
        target: The active version; `other` is the previous one.
        alert_id: The alert that the slice decides.
        verdict: What it showed; None while it lasts.
        counts: What was measured of both versions.
        message: All of it in a sentence.
    """

    TYPE: ClassVar[str] = "slipway.slice.changed.v1"

    slice_id: str
    phase: Literal["started", "ended"]
    target: Target
    other: Target
    alert_id: str
    trigger: str
    share_ratio: Ratio
    starts_at: Instant
    expires_at: Instant
    verdict: SliceVerdict | None = None
    counts: SliceCounts = SliceCounts()
    message: str
