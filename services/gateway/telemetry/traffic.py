"""How many requests each model answers in this process, as its reports say."""

from collections import Counter
from heapq import nlargest
from operator import itemgetter
from typing import Final

from contracts.api_usage import MOST_MODELS, TrafficReport

SMOOTHING: Final = 0.5
"""Weight of the last second."""
_LEAST_RPS: Final = 1e-3


class Traffic:
    """Requests per second of each model that active version or canary have answered or failed in production.

    Args:
        process: the id of this process.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self._answered: Counter[str] = Counter()
        self._rates: dict[str, float] = {}

    def note(self, model: str) -> None:
        """Note a request whose telemetry the monitor must get."""
        self._answered[model] += 1

    def report(self) -> TrafficReport:
        """Return the rates after another second; of too many models, the highest."""
        after = {
            model: (1.0 - SMOOTHING) * self._rates.get(model, 0.0) + SMOOTHING * self._answered[model]
            for model in self._rates.keys() | self._answered.keys()
        }
        self._rates = {model: rate for model, rate in after.items() if rate > _LEAST_RPS}
        self._answered.clear()
        return TrafficReport(
            process=self.process, traffic=dict(nlargest(MOST_MODELS, self._rates.items(), key=itemgetter(1)))
        )
