"""The delay before another attempt."""


def backoff_s(failures: int, first_s: float, longest_s: float) -> float:
    """Return the seconds to wait after consecutive failures, doubled by each up to `longest_s`; 0 after none."""
    return min(first_s * 2.0 ** min(failures - 1, 32), longest_s) if failures > 0 else 0.0
