"""The price of a version's tokens by the price of its machine, in the same currency. Pure."""

_MILLION = 1e6
_HOUR_S = 3600.0


def million_tokens(price_per_hour: float, tokens_per_s: float) -> float | None:
    """Return the price of a million output tokens on a dedicated machine; None if the throughput is 0."""
    return price_per_hour / (tokens_per_s * _HOUR_S) * _MILLION if tokens_per_s > 0 else None
