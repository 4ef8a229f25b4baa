"""Costs of a version, in the currency of the machine's price. Pure."""

_MILLION = 1e6
_HOUR_S = 3600.0


def million_tokens(price_per_hour: float, tokens_per_s: float) -> float | None:
    """Return the price of a million output tokens on a dedicated machine; None if the throughput is 0."""
    return price_per_hour / (tokens_per_s * _HOUR_S) * _MILLION if tokens_per_s > 0 else None


def machine_time(price_per_hour: float, seconds: float) -> float:
    """Return the price of a machine for some seconds."""
    return price_per_hour * seconds / _HOUR_S


def held_memory(price_per_hour: float, held_bytes: int, budget_bytes: int) -> float | None:
    """Return the hourly price of a version's reserved memory, by its share of the budget; None if the budget is 0."""
    return price_per_hour * held_bytes / budget_bytes if budget_bytes > 0 else None
