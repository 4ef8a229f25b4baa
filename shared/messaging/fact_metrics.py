"""Counts releases, variants, gates, alerts and rollbacks by the facts that a service publishes."""

from __future__ import (
    annotations,  # each `Event[…]` that is read at import builds a model: a tenth of a service's start
)

from collections.abc import Callable
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
"""What the first part of a name in a timeline may be; the rest names a variant, a share or a person."""


class FactMetrics:
    """The metrics of the facts that a service publishes. A fact is counted after its stream has stored it.

    Counters that rules watch begin at 0: `increase` does not see a series that begins at 1.
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

    def note(self, event: Event[Any]) -> None:
        """Count a fact that was published."""
        self._published.labels(event.type, event.environment).inc()
        rule = _RULES.get(type(event.data))
        if rule is not None:
            rule(self, event)

    def count(self, metric: Metric, *labels: str) -> None:
        """Increment a counter, if the service of these metrics has it."""
        if metric in self._counters:
            self._counters[metric].labels(*labels).inc()

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Observe a duration in a histogram, if the service of these metrics has it."""
        if metric in self._histograms:
            histogram_ = self._histograms[metric]
            (histogram_.labels(*labels) if labels else histogram_).observe(max(seconds, 0.0))


def _release_finished(metrics: FactMetrics, event: Event[f.ReleaseFinished]) -> None:
    finished = event.data
    metrics.count(m.RELEASES_FINISHED, finished.outcome, finished.code or "")
    for step in finished.timeline:
        name = step.step.partition(" ")[0]
        metrics.observe(m.STEP_SECONDS, step.duration_s, name if name in _STEPS else m.OTHER)
    if finished.timeline:
        took = finished.timeline[-1].at - finished.timeline[0].at
        metrics.observe(m.RELEASE_SECONDS, took.total_seconds(), finished.outcome)


def _deadline_passed(metrics: FactMetrics, event: Event[f.DeadlinePassed]) -> None:
    metrics.count(m.DEADLINES_PASSED, event.data.step)


def _variant_failed(metrics: FactMetrics, event: Event[f.VariantFailed]) -> None:
    metrics.count(m.VARIANTS_FAILED, event.data.step, event.data.variant, event.data.code)


def _variant_quantised(metrics: FactMetrics, event: Event[f.VariantQuantised]) -> None:
    metrics.observe(m.QUANTISE_SECONDS, event.data.duration_s, event.data.variant)


def _variant_staged(metrics: FactMetrics, event: Event[f.VariantStaged]) -> None:
    metrics.observe(m.LOAD_SECONDS, event.data.load_s)


def _variant_benchmarked(metrics: FactMetrics, event: Event[f.VariantBenchmarked]) -> None:
    for gate in event.data.gates:
        metrics.count(m.GATES, metrics.gate(gate.name), gate.verdict)


def _deployment_changed(metrics: FactMetrics, event: Event[f.DeploymentChanged]) -> None:
    metrics.count(m.ROUTE_CHANGES, event.environment, event.data.cause)


def _rollback_completed(metrics: FactMetrics, event: Event[f.RollbackCompleted]) -> None:
    metrics.count(m.ROLLBACKS, event.environment, event.data.mode, event.data.verdict)
    times = event.data.timeline
    moments = {
        "detect": (times.first_bad_at, times.detected_at),
        "switch": (times.detected_at, times.switched_at),
        "verify": (times.switched_at, times.verified_at),
    }
    for stage, (begin, end) in moments.items():
        if begin is not None and end is not None:
            metrics.observe(m.ROLLBACK_SECONDS, (end - begin).total_seconds(), event.environment, stage)


def _rollback_failed(metrics: FactMetrics, event: Event[f.RollbackFailed]) -> None:
    metrics.count(m.ROLLBACKS, event.environment, event.data.mode, "failed")


def _rehearsal_completed(metrics: FactMetrics, event: Event[f.RehearsalCompleted]) -> None:
    metrics.count(m.REHEARSALS, event.data.verdict)


_COUNTERS = (
    m.RELEASES_FINISHED, m.DEADLINES_PASSED, m.VARIANTS_FAILED, m.GATES, m.ROUTE_CHANGES,
    m.ROLLBACKS, m.REHEARSALS,
)  # fmt: skip
_HISTOGRAMS = (m.RELEASE_SECONDS, m.STEP_SECONDS, m.QUANTISE_SECONDS, m.LOAD_SECONDS, m.ROLLBACK_SECONDS)
_RULES: dict[type[f.Fact], Callable[[FactMetrics, Event[Any]], None]] = {
    f.ReleaseFinished: _release_finished,
    f.DeadlinePassed: _deadline_passed,
    f.VariantFailed: _variant_failed,
    f.VariantQuantised: _variant_quantised,
    f.VariantStaged: _variant_staged,
    f.VariantBenchmarked: _variant_benchmarked,
    f.DeploymentChanged: _deployment_changed,
    f.RollbackCompleted: _rollback_completed,
    f.RollbackFailed: _rollback_failed,
    f.RehearsalCompleted: _rehearsal_completed,
}
