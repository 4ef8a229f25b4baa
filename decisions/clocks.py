"""Offset of a sender's clock from the bus's. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from contracts.facts import Inference
from contracts.facts.watch import MirroredPair

TOLERANCE_S = 10.0
"""Offset up to which a clock counts as right: batches may be in transit for some seconds."""


def offset_s(sent_at: datetime, stored_at: datetime) -> float:
    """Return the seconds by which a sender's clock is ahead of the bus's; negative if behind."""
    return (sent_at - stored_at).total_seconds()


def is_wrong(offset: float) -> bool:
    """Return whether a clock's offset in seconds exceeds `TOLERANCE_S`."""
    return abs(offset) > TOLERANCE_S


def put_right(records: Sequence[Inference], offset: float) -> tuple[Inference, ...]:
    """Return records with times by the bus's clock if the sender's clock is wrong."""
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
    except OverflowError:  # no valid time: unchanged, and refused as implausible
        return record
    return record.model_copy(update=moved)
