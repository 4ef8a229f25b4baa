"""Arithmetic with times, limited to the calendar."""

from datetime import UTC, datetime, timedelta
from typing import Final

_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def later(start: datetime, seconds: float) -> datetime:
    """Return `start` plus `seconds`, at most the year 9000."""
    try:
        return min(_LAST, start + timedelta(seconds=seconds))
    except OverflowError:
        return _LAST
