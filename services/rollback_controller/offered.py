"""What gateways admit for each model, and whether that load has risen."""

from contracts.api_usage import DemandReport
from decisions.offered_load import Buckets, Offered, add_offered, has_risen
from shared.runtime.clock import Clock


class OfferedLoads:
    """What all gateways admitted for each model in the last minutes; each process hears all reports."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.monotonic()
        self._buckets: dict[str, Buckets] = {}

    def take_report(self, report: DemandReport) -> None:
        """Add what a gateway reports."""
        now_s = self._clock.monotonic()
        for model, load in report.offered.items():
            offered = Offered(load.requests, load.tokens, load.longest)
            self._buckets[model] = add_offered(self._buckets.get(model, {}), offered, now_s)

    def have_risen(self, model: str) -> bool:
        """Return whether the load of a model has risen; a process that began a moment ago knows of none."""
        now_s = self._clock.monotonic()
        return has_risen(self._buckets.get(model, {}), now_s, now_s - self._began_s)
