"""How long a registry that fails is left alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits that double with each failure in a row.

    Attributes:
        first_s: Seconds after the first failure.
        longest_s: Most seconds.
    """

    first_s: float = 1.0
    longest_s: float = 300.0

    def wait_s(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row; 0 after none."""
        return min(self.first_s * 2.0 ** min(failures - 1, 32), self.longest_s) if failures else 0.0
