"""How gateways divide the limits of a key among themselves: in proportion to what is asked of each. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

FLOOR: Final = 0.02
"""Share of all demand that a process counts as having at least, so that one without demand can begin at once."""
SMOOTHING: Final = 0.5
"""Weight of the last second in a process's demand."""
FORGOTTEN_S: Final = 5.0
"""A process that reports nothing for so long is forgotten."""


@dataclass(frozen=True)
class TimedReport:
    """What another process reported last: when, in monotonic seconds, and its demand by account."""

    at_s: float
    demand: Mapping[str, float]


def smooth(before: float, per_second: float) -> float:
    """Return the demand after another second with so many requests; what is nearly nothing is nothing."""
    demand = (1.0 - SMOOTHING) * before + SMOOTHING * per_second
    return demand if demand > 1e-3 else 0.0


def remembered(reports: Mapping[str, TimedReport], now_s: float) -> dict[str, TimedReport]:
    """Return the reports that still count."""
    return {process: report for process, report in reports.items() if now_s - report.at_s <= FORGOTTEN_S}


def share(own: float, others: Iterable[float]) -> float:
    """Return the share of a limit that a process has: all shares of processes that know the same add up to 1.

    Args:
        own: its demand.
        others: the demand of each other process; 0 for one without.
    """
    demands = [own, *others]
    total = sum(demands)
    if total <= 0.0:
        return 1.0 / len(demands)
    least = FLOOR * total
    return max(own, least) / sum(max(demand, least) for demand in demands)
