"""Validity of operators' orders: expiry and epoch."""

import re
from datetime import datetime, timedelta

ORDER_AGE = timedelta(minutes=15)
"""Validity of an order without `expires_at`."""
LONGEST_ORDER = timedelta(hours=24)
"""Maximum validity of an order from its own time or its arrival on the bus."""
CLOCK_SKEW = timedelta(minutes=5)
"""Maximum time by which the clock of an order's publisher may be ahead of the bus's."""


def expiry(ordered_at: datetime, stored_at: datetime, expires_at: datetime | None) -> datetime:
    """Return the expiry of an order: `expires_at`, at most `LONGEST_ORDER` after the earlier of its two times.

    Args:
        ordered_at: Time of the event by the publisher's clock.
        stored_at: Time of the message by the bus's clock.
        expires_at: The order's expiry; None for `ORDER_AGE`.
    """
    if expires_at is None:
        return min(ordered_at, stored_at) + ORDER_AGE
    return min(expires_at, min(ordered_at, stored_at) + LONGEST_ORDER)


def assess_expiry(ordered_at: datetime, stored_at: datetime, expires_at: datetime | None, now: datetime) -> str | None:
    """Return why an order is expired, or its time implausible; None while it is valid."""
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
    """Return why an order is void because its route has changed; None if it is valid.

    Args:
        ordered: Epoch of the order; None is valid for all epochs.
        current: Epoch of the route; None without a route.
        model: Model of the route.
        since: First epoch that counts as the current one; None for `current`.
    """
    first = current or 0 if since is None else since
    if ordered is None or first <= ordered <= (current or 0):
        return None
    return f"The order was given for epoch {ordered} of the route of {model}, which is at epoch {current or 0} now."


_NOW_AT = re.compile(r"which is at epoch (\d+) now\.")


def epoch_in_reason(reason: str) -> int | None:
    """Return the current epoch in the reason of a `stale_epoch`; None without one."""
    match = _NOW_AT.search(reason)
    return int(match[1]) if match else None
