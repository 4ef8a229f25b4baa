"""What gateways admit for each model, and whether that load has risen."""

from contracts.api_usage import DemandReport
from decisions.offered_load import Buckets, LastRise, Offered, add_offered
from shared.runtime.clock import Clock


class OfferedLoads:
    """What all gateways admitted for each model in the last minutes; each process hears all reports."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.monotonic()
        self._buckets: dict[str, Buckets] = {}
        self._rises: dict[str, LastRise] = {}

    def take_report(self, report: DemandReport) -> None:
        """Add what a gateway reports."""
        now_s = self._clock.monotonic()
        for model, load in report.offered.items():
            offered = Offered(load.requests, load.tokens, load.longest)
            self._buckets[model] = add_offered(self._buckets.get(model, {}), offered, now_s)
            self._note_rise(model, now_s)

    def have_risen(self, model: str) -> bool:
        """Return whether the load of a model has risen in the last minutes.

        A process that began a moment ago knows of no rise.
        """
        now_s = self._clock.monotonic()
        return self._note_rise(model, now_s).counts(now_s)

    def _note_rise(self, model: str, now_s: float) -> LastRise:
        before = self._rises.get(model, LastRise())
        after = before.note(self._buckets.get(model, {}), now_s, now_s - self._began_s)
        self._rises[model] = after
        return after
