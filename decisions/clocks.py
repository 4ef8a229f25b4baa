"""Offset of a sender's clock, from the time at which the bus stored its message; pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from contracts.facts import Inference
from contracts.facts.watch import MirroredPair

TOLERANCE_S = 10.0
"""Clocks that differ by less count as right: a batch may be on its way for some seconds."""


def offset_s(sent_at: datetime, stored_at: datetime) -> float:
    """Return by how many seconds a sender's clock is ahead of the bus's; less than zero when it is behind."""
    return (sent_at - stored_at).total_seconds()


def is_wrong(offset: float) -> bool:
    """Return whether a clock's offset in seconds exceeds `TOLERANCE_S`."""
    return abs(offset) > TOLERANCE_S


def put_right(records: Sequence[Inference], offset: float) -> tuple[Inference, ...]:
    """Return records with their times corrected to the clock of the bus if the sender's clock is wrong."""
    if not is_wrong(offset):
        return tuple(records)
    return tuple(_shifted(record, offset) for record in records)


def put_pairs_right(pairs: Sequence[MirroredPair], offset: float) -> tuple[MirroredPair, ...]:
    """Return pairs with the times of both sides corrected like records."""
    if not is_wrong(offset):
        return tuple(pairs)
    return tuple(
        pair.model_copy(update={name: _shifted(getattr(pair, name), offset) for name in ("served", "mirrored")})
        for pair in pairs
    )


def _shifted(record: Inference, offset: float) -> Inference:
    try:
        by = timedelta(seconds=-offset)
        moved: dict[str, object] = {"scheduled_at": record.scheduled_at + by, "sent_at": record.sent_at + by}
    except OverflowError:  # a time that no calendar has: left as it is, and refused as implausible
        return record
    return record.model_copy(update=moved)
