"""Times that stay in the calendar, however long the durations of an older policy are."""

from datetime import UTC, datetime, timedelta
from typing import Final

_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def later(start: datetime, seconds: float) -> datetime:
    """Return the time so many seconds after another one; the year 9000 where the calendar ends before it."""
    try:
        return min(_LAST, start + timedelta(seconds=seconds))
    except OverflowError:
        return _LAST
