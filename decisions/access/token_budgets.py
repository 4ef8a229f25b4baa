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
    """Return whether a request fits into a budget, or is the only one while tokens are left.

    A process exceeds a budget by less than one request.

    Args:
        budget: Tokens of the month.
        used: Used tokens of the month.
        held: Maximum tokens of requests in progress.
        most: Maximum tokens of the request.
    """
    return used + held + most <= budget or (held == 0 and used < budget)
