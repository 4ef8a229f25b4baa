"""Metrics of releases, variants, gates and rollbacks, from the facts that a service publishes."""

from itertools import product
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from contracts import facts as f
from contracts import metrics as m
from contracts.envelope import Event
from contracts.metrics import METRICS, Metric
from contracts.vocabulary import Environment, Verdict
from decisions.releases.plan import Step
from shared.runtime.metrics import BoundedLabel, counter, histogram

_STEPS = frozenset(
    {
        "opened", "merged", "quantised", "failed", "manifest", "turn", "staged", "benchmarked", "evaluated",
        "rehearsed", "approvals", "deployed", "assessed", "finished",
    }
)  # fmt: skip
"""First words of a timeline's step names; the rest names a variant, a share or a person."""


class FactMetrics:
    """The metrics of the facts that a service publishes, counted once stored in their stream.

    Counters used by alerting rules begin at 0: `increase` ignores a series that begins at 1.
    """

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        self._published = counter(m.FACTS_PUBLISHED, registry)
        own = tuple(metric for metric in METRICS if service in metric.services)
        self._counters: dict[Metric, Counter] = {
            metric: counter(metric, registry) for metric in _COUNTERS if metric in own
        }
        self._histograms: dict[Metric, Histogram] = {
            metric: histogram(metric, registry) for metric in _HISTOGRAMS if metric in own
        }
        self.gate = BoundedLabel(100)
        if m.ROLLBACKS in own:
            for labels in product(get_args(Environment), ("automatic", "manual"), (*get_args(Verdict), "failed")):
                self._counters[m.ROLLBACKS].labels(*labels)
        if m.DEADLINES_PASSED in own:
            for step in get_args(Step):
                self._counters[m.DEADLINES_PASSED].labels(step)

    def note(self, event: Event[Any]) -> None:  # noqa: C901 - a case for each fact
        """Count a fact that was published."""
        self._published.labels(event.type, event.environment).inc()
        match event.data:
            case f.ReleaseFinished():
                self._finished(event.data)
            case f.DeadlinePassed(step=step):
                self.count(m.DEADLINES_PASSED, step)
            case f.VariantFailed(step=step, variant=variant, code=code):
                self.count(m.VARIANTS_FAILED, step, variant, code)
            case f.VariantQuantised(duration_s=duration_s, variant=variant):
                self.observe(m.QUANTISE_SECONDS, duration_s, variant)
            case f.VariantStaged(load_s=load_s):
                self.observe(m.LOAD_SECONDS, load_s)
            case f.VariantBenchmarked(gates=gates):
                for gate in gates:
                    self.count(m.GATES, self.gate(gate.name), gate.verdict)
            case f.DeploymentChanged(cause=cause):
                self.count(m.ROUTE_CHANGES, event.environment, cause)
            case f.RollbackCompleted():
                self._rolled_back(event.data, event.environment)
            case f.RollbackFailed(mode=mode):
                self.count(m.ROLLBACKS, event.environment, mode, "failed")
            case f.RehearsalCompleted(verdict=verdict):
                self.count(m.REHEARSALS, verdict)

    def _finished(self, finished: f.ReleaseFinished) -> None:
        self.count(m.RELEASES_FINISHED, finished.outcome, finished.code or "")
        for step in finished.timeline:
            name = step.step.partition(" ")[0]
            self.observe(m.STEP_SECONDS, step.duration_s, name if name in _STEPS else m.OTHER)
        if finished.timeline:
            took = finished.timeline[-1].at - finished.timeline[0].at
            self.observe(m.RELEASE_SECONDS, took.total_seconds(), finished.outcome)

    def _rolled_back(self, completed: f.RollbackCompleted, environment: Environment) -> None:
        self.count(m.ROLLBACKS, environment, completed.mode, completed.verdict)
        times = completed.timeline
        moments = {
            "detect": (times.first_bad_at, times.detected_at),
            "switch": (times.detected_at, times.switched_at),
            "verify": (times.switched_at, times.verified_at),
        }
        for stage, (begin, end) in moments.items():
            if begin is not None and end is not None:
                self.observe(m.ROLLBACK_SECONDS, (end - begin).total_seconds(), environment, stage)

    def count(self, metric: Metric, *labels: str) -> None:
        """Increment a counter, if the service of these metrics has it."""
        if metric in self._counters:
            self._counters[metric].labels(*labels).inc()

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Observe a duration in a histogram, if the service of these metrics has it."""
        if metric in self._histograms:
            histogram_ = self._histograms[metric]
            (histogram_.labels(*labels) if labels else histogram_).observe(max(seconds, 0.0))


_COUNTERS = (
    m.RELEASES_FINISHED, m.DEADLINES_PASSED, m.VARIANTS_FAILED, m.GATES, m.ROUTE_CHANGES,
    m.ROLLBACKS, m.REHEARSALS,
)  # fmt: skip
_HISTOGRAMS = (m.RELEASE_SECONDS, m.STEP_SECONDS, m.QUANTISE_SECONDS, m.LOAD_SECONDS, m.ROLLBACK_SECONDS)
