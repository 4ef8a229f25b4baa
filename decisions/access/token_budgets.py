"""Budgets of tokens per calendar month in UTC. Pure."""

from datetime import UTC, datetime


def month_of(now: datetime) -> str:
    """Return the month of a time, as `2026-11`."""
    return f"{now.astimezone(UTC):%Y-%m}"


def seconds_to_next_month(now: datetime) -> float:
    """Return the seconds until the next month begins."""
    utc = now.astimezone(UTC)
    year, month = (utc.year + 1, 1) if utc.month == 12 else (utc.year, utc.month + 1)
    return (datetime(year, month, 1, tzinfo=UTC) - utc).total_seconds()


def fits(budget: int, used: int, held: int, most: int) -> bool:
    """Return whether a request is admitted: it fits beside all held tokens, or none are held and some are left.

    So a process exceeds a budget by less than one request.

    Args:
        budget: tokens of the month.
        used: tokens that were used in it.
        held: tokens that requests in progress may still take.
        most: tokens that the request may take.
    """
    return used + held + most <= budget or (held == 0 and used < budget)
