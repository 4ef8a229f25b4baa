"""The share of each key's limits that this process admits: in proportion to the demand here and at the others."""

from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from operator import itemgetter
from typing import Final

from contracts.api_usage import MOST_ACCOUNTS, MOST_MODELS, DemandReport
from decisions.rate_shares import TimedReport, remembered, share, smooth
from shared.runtime.clock import Clock

MOST_PROCESSES: Final = 256
"""Other processes whose reports are kept; those of more are ignored."""


class Shares:
    """Demand by account, of this process and of all others that report to it.

    Before the others have reported, a process has an equal part of its own gateway's workers. Without the bus the
    last shares stand.

    Args:
        clock: its monotonic seconds.
        process: the id of this process.
        workers: processes of this gateway.
    """

    def __init__(self, clock: Clock, process: str, workers: int) -> None:
        self._clock = clock
        self._workers = workers
        self._asked: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._demand: dict[str, float] = {}
        self._traffic: dict[str, float] = {}
        self._reports: dict[str, TimedReport] = {}
        self._shares: dict[str, float] = {}
        self._exchanges = 0
        self.process = process

    def note(self, account: str) -> None:
        """Note a request of an account, whether it will be admitted or not."""
        self._asked[account] += 1

    def note_traffic(self, model: str) -> None:
        """Note a request that the active version of a model, or its canary, has answered or failed in production."""
        self._models[model] += 1

    def of(self, account: str) -> float:
        """Return the share of this process, above 0 and at most 1."""
        return self._shares.get(account) or self._idle

    @property
    def _idle(self) -> float:
        """Return the share of an account without demand anywhere."""
        others = len(self._reports)
        return 1.0 / (1 + others if self._exchanges > 1 else max(self._workers, 1 + others))

    def report(self) -> DemandReport:
        """Return what is asked here, once a second; of too many accounts or models, those with the highest demand."""
        self._demand, self._traffic = smoothed(self._demand, self._asked), smoothed(self._traffic, self._models)
        self._asked.clear()
        self._models.clear()
        return DemandReport(
            process=self.process,
            demand=highest(self._demand, MOST_ACCOUNTS),
            traffic=highest(self._traffic, MOST_MODELS),
        )

    def take_report(self, report: DemandReport) -> None:
        """Take the report of another process, unless there are too many."""
        if report.process != self.process and (report.process in self._reports or len(self._reports) < MOST_PROCESSES):
            self._reports[report.process] = TimedReport(self._clock.monotonic(), report.demand)

    def divide(self) -> None:
        """Compute the share of each account anew, after a report went out; without the bus the shares stay."""
        self._exchanges += 1
        self._reports = remembered(self._reports, self._clock.monotonic())
        others = self._reports.values()
        known = self._demand.keys() | {account for report in others for account in report.demand}
        self._shares = {
            account: share(self._demand.get(account, 0.0), [report.demand.get(account, 0.0) for report in others])
            for account in known
        }


def smoothed(before: Mapping[str, float], asked: Mapping[str, int]) -> dict[str, float]:
    """Return the demand after another second, without what has nearly none."""
    after = {name: smooth(before.get(name, 0.0), asked.get(name, 0)) for name in before.keys() | asked.keys()}
    return {name: demand for name, demand in after.items() if demand}


def highest(demand: Mapping[str, float], most: int) -> dict[str, float]:
    """Return the entries with the highest demand."""
    return dict(nlargest(most, demand.items(), key=itemgetter(1)))
