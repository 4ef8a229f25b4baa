"""Schedule of a registry's comparisons: after changes, and after failures with growing waits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from decisions.backoff import backoff_s

AGAIN_S: Final = (0.0, 5.0, 30.0)
"""Seconds after a change when a model is compared; the registry service adds records after the fact."""


@dataclass
class Schedule:
    """The schedule of one registry.

    Attributes:
        first_s: Wait after a first failure in seconds; it doubles with each further failure.
        longest_s: Longest wait in seconds.
        jitter: Returns 0 to 1; adds up to a quarter of a wait, so that installations do not retry together.
    """

    first_s: float
    longest_s: float
    jitter: Callable[[], float] = lambda: 0.0
    _due: dict[str, list[float]] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _outages: int = 0
    _not_before: float = 0.0

    @property
    def behind(self) -> int:
        """Number of models that failed last or wait for their first comparison."""
        return len(self._failures.keys() | {model for model, times in self._due.items() if len(times) == len(AGAIN_S)})

    def note_changed(self, models: Iterable[str], now: float) -> None:
        """Schedule comparisons of models now, and later when their records are complete."""
        for model in models:
            self._due[model] = [now + later for later in AGAIN_S]

    def forget(self, models: Iterable[str]) -> None:
        """Remove models that are no longer mirrored."""
        for model in models:
            self._due.pop(model, None)
            self._failures.pop(model, None)

    @property
    def known(self) -> set[str]:
        """Models that failed or are scheduled."""
        return self._due.keys() | self._failures.keys()

    def due(self, now: float) -> list[str]:
        """Return the models to compare now: none before the retry time, then one until the registry answers."""
        if now < self._not_before:
            return []
        due = sorted((times[0], model) for model, times in self._due.items() if times and times[0] <= now)
        models = [model for _, model in due]
        return models[:1] if self._outages else models

    def begin(self, model: str, now: float) -> bool:
        """Begin a model's comparison; return False if the registry failed after the model was listed."""
        if now < self._not_before:
            return False
        times = self._due.get(model, [])
        self._due[model] = [time for time in times if time > now]
        return True

    def note_done(self, model: str) -> None:
        """Record that a model is up to date, and that its registry answers."""
        self._outages, self._not_before = 0, 0.0
        self._failures.pop(model, None)
        if not self._due.get(model):
            self._due.pop(model, None)

    def note_failed(self, model: str, now: float, *, whole: bool) -> None:
        """Schedule a retry after a wait; `whole` means that the registry failed, so that all its models wait."""
        failures = self._failures[model] = self._failures.get(model, 0) + 1
        if whole:
            self._outages += 1
            self._not_before = now + self._wait_s(self._outages)
            again = self._not_before
        else:
            again = now + self._wait_s(failures)
        self._due[model] = sorted({again, *(time for time in self._due.get(model, []) if time > again)})

    def _wait_s(self, failures: int) -> float:
        return backoff_s(failures, self.first_s, self.longest_s) * (1.0 + 0.25 * self.jitter())
