"""The cost of a version's tokens by the price of a machine, in the currency of that. Pure."""

_MILLION = 1e6
_HOUR_S = 3600.0


def million_tokens(price_per_hour: float, tokens_per_s: float) -> float | None:
    """Return the price of a million output tokens on a machine that does nothing else; None if there were none."""
    return price_per_hour / (tokens_per_s * _HOUR_S) * _MILLION if tokens_per_s > 0 else None
