"""Expiry and epoch of operators' orders: an expired order changes nothing, even if it is delivered again."""

import re
from datetime import datetime, timedelta

ORDER_AGE = timedelta(minutes=15)
"""How long an order without `expires_at` is valid."""
LONGEST_ORDER = timedelta(hours=24)
"""How long any order is valid at most, from its own time or its arrival on the bus, whatever `expires_at` says."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of an order's publisher may be ahead of the bus's; an order beyond it is void."""


def expiry(ordered_at: datetime, stored_at: datetime, expires_at: datetime | None) -> datetime:
    """Return the time at which an order expires.

    It is `expires_at`, at most 24 h after the earlier of the order's two times; by default 15 min after that time.

    Args:
        ordered_at: The event's own time, by the publisher's clock, which may be wrong.
        stored_at: When the stream stored the message, by the server's clock. A publisher cannot set it.
        expires_at: The order's own expiry; None if it names none.
    """
    if expires_at is None:
        return min(ordered_at, stored_at) + ORDER_AGE
    return min(expires_at, min(ordered_at, stored_at) + LONGEST_ORDER)


def assess_expiry(ordered_at: datetime, stored_at: datetime, expires_at: datetime | None, now: datetime) -> str | None:
    """Return why an order has expired, or why its time is not credible; None while it is valid."""
    if ordered_at - stored_at > CLOCK_SKEW:
        return (
            f"The order's time is {ordered_at.isoformat(timespec='seconds')}, later than the bus stored it "
            f"({stored_at.isoformat(timespec='seconds')}) by more than the limit of {CLOCK_SKEW}, so it changes "
            "nothing; check the clock of the sender, then publish the order again."
        )
    until = expiry(ordered_at, stored_at, expires_at)
    if now < until:
        return None
    return (
        f"The order of {ordered_at.isoformat(timespec='seconds')} (stored by the bus at "
        f"{stored_at.isoformat(timespec='seconds')}) was valid until {until.isoformat(timespec='seconds')}; "
        f"it is {now.isoformat(timespec='seconds')} now, so it changes nothing."
    )


def assess_epoch(ordered: int | None, current: int | None, model: str, since: int | None = None) -> str | None:
    """Return why an order is void because the route has changed since; None if it was given for the current route.

    Args:
        ordered: the epoch that the order names; None is valid for every epoch.
        current: the epoch of the route; None if there is no route.
        model: the model of the route.
        since: the first epoch that counts as the current one; None if only `current` does.
    """
    first = current or 0 if since is None else since
    if ordered is None or first <= ordered <= (current or 0):
        return None
    return f"The order was given for epoch {ordered} of the route of {model}, which is at epoch {current or 0} now."


_NOW_AT = re.compile(r"which is at epoch (\d+) now\.")


def epoch_in_reason(reason: str) -> int | None:
    """Return the current epoch that the reason of a `stale_epoch` names; None if it names none."""
    match = _NOW_AT.search(reason)
    return int(match[1]) if match else None
