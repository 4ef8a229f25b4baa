"""Labels are bounded, gauges of records add up, and published facts count in the service that publishes them."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from contracts import metrics as m
from contracts.envelope import Event
from contracts.facts import FACTS
from contracts.metrics import OTHER
from contracts.services import SERVICES
from shared.messaging.fact_metrics import FactMetrics
from shared.runtime.metrics import BoundedLabel, Counts, gauge
from tests.kit.wiring import ROOT

SAMPLES = sorted((ROOT / "contracts/samples").glob("*.json"))


def values(registry, metric):
    return {
        tuple(sample.labels[label] for label in metric.labels): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == metric.name
    }


@given(st.lists(st.text()), st.integers(0, 5))
def test_a_label_has_at_most_its_values_and_other(names, limit):
    label = BoundedLabel(limit)
    given_labels = [label(name) for name in names]
    assert len(set(given_labels) - {OTHER}) <= limit
    assert all(text in (name, OTHER) for name, text in zip(names, given_labels, strict=True))
    assert [label(name) for name in names] == given_labels, "a value keeps its label"


SOURCES = st.sampled_from(["a", "b", "c"])
COUNTS = st.dictionaries(
    st.tuples(st.sampled_from(["ready", "failed", "loading"])), st.integers(1, 9).map(float), max_size=3
)
STEPS = st.lists(st.one_of(st.tuples(SOURCES, COUNTS), st.sets(SOURCES)))


@given(STEPS)
def test_a_gauge_is_the_sum_of_what_its_sources_said_last(steps):
    registry = CollectorRegistry()
    counts, last = Counts(gauge(m.TARGETS, registry)), {}
    for step in steps:
        if isinstance(step, tuple):
            counts.replace(*step)
            last[step[0]] = step[1]
        else:
            counts.keep_only(step)
            last = {source: own for source, own in last.items() if source in step}
    expected = Counter()
    for own in last.values():
        expected.update(own)
    shown = values(registry, m.TARGETS)
    assert {labels: count for labels, count in shown.items() if count} == dict(expected)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_fact_can_be_counted_by_who_emits_it(path):
    plain = json.loads(path.read_text())
    fact = FACTS[plain["type"]]
    event = Event[fact].model_validate(plain)
    for service in SERVICES.values():
        if fact in service.emits:
            registry = CollectorRegistry()
            FactMetrics(service.name, registry).note(event)
            assert values(registry, m.FACTS_PUBLISHED) == {(fact.TYPE, event.environment): 1.0}


def note(service, name):
    plain = json.loads((ROOT / f"contracts/samples/slipway.{name}.v1.json").read_text())
    registry = CollectorRegistry()
    FactMetrics(service, registry).note(Event[FACTS[plain["type"]]].model_validate(plain))
    samples = Counter()
    for family in registry.collect():
        for sample in family.samples:
            samples[sample.name] += sample.value
    return plain["data"], samples


def test_a_rollback_counts_with_its_stages():
    data, samples = note("rollback-controller", "rollback.completed")
    assert samples[m.ROLLBACKS.name] == 1.0
    moments = [data["timeline"].get(name) for name in ("first_bad_at", "switched_at", "verified_at")]
    assert samples[m.ROLLBACK_SECONDS.count] == len([moment for moment in moments if moment]) > 1


def test_a_finished_release_counts_with_its_steps():
    data, samples = note("registry", "release.finished")
    assert samples[m.RELEASES_FINISHED.name] == 1.0
    assert samples[m.RELEASE_SECONDS.count] == 1.0
    assert samples[m.STEP_SECONDS.count] == len(data["timeline"]) > 1


@pytest.mark.parametrize(
    ("service", "name", "metric"),
    [
        ("benchmarker", "variant.benchmarked", m.GATES),
        ("quantiser", "variant.failed", m.VARIANTS_FAILED),
        ("server-manager", "deployment.changed", m.ROUTE_CHANGES),
        ("rollback-controller", "rollback.failed", m.ROLLBACKS),
        ("rollback-controller", "rehearsal.completed", m.REHEARSALS),
        ("registry", "deadline.passed", m.DEADLINES_PASSED),
    ],
)
def test_facts_count_by_what_they_say(service, name, metric):
    assert note(service, name)[1][metric.name] >= 1.0
