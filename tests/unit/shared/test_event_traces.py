"""Which trace an event of a release belongs to, whatever a service knows of it, and the span of the whole release."""

from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from contracts import facts as f
from contracts.facts.release import TimelineStep
from shared.messaging.event_traces import EventTraces
from testbed import factories as k

TRACE, SPAN = "5" * 32, "6" * 16
JOB = f"00-{TRACE}-{SPAN}-01"
RELEASE = k.RELEASE
STEPS = tuple(
    TimelineStep(step=step, at=k.START + timedelta(seconds=at), duration_s=at)
    for step, at in (("opened", 0), ("merged", 4))
)


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter):
    provider = TracerProvider(sampler=ALWAYS_OFF)  # the ratio of requests; a release is kept nevertheless
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return EventTraces(provider)


def announced(traceparent=JOB):
    return k.event(f.CheckpointReady, id="checkpoint-1", correlationid="run-1", traceparent=traceparent)


def opened(traces, cause="checkpoint-1"):
    return traces.traceparent_of(k.fact(f.ReleaseOpened), RELEASE, cause)


def later(traces):
    return traces.traceparent_of(k.fact(f.CheckpointMerged), RELEASE, "any").split("-")


def ended(**changes):
    finished = k.fact(f.ReleaseFinished, release_id=RELEASE, timeline=STEPS, **changes)
    return k.event(finished, correlationid=RELEASE, time=k.START + timedelta(seconds=9))


def test_a_release_continues_the_trace_of_the_job_that_announced_it(traces, exporter):
    traces.learn(announced())
    version, trace_id, span_id, flags = opened(traces).split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert later(traces)[1:3] == [trace_id, span_id], "without a current span the parent is the whole release"
    traces.record(ended(code=None, outcome="promoted"))
    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.context.span_id:016x}" == span_id
    assert f"{span.parent.span_id:016x}" == SPAN
    assert (span.end_time - span.start_time) / 1e9 == 9
    assert [event.name for event in span.events] == ["opened", "merged"]
    assert span.status.is_ok or span.status.is_unset


def test_a_service_that_only_meets_the_facts_of_a_release_is_in_the_same_trace(traces, exporter):
    registry = EventTraces(TracerProvider())
    registry.learn(announced())
    traces.learn(k.event(f.ReleaseOpened, correlationid=RELEASE, traceparent=opened(registry)))
    assert later(traces) == later(registry)


@pytest.mark.parametrize(
    "given",
    [None, "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", JOB + "\n"],
)
def test_without_a_valid_trace_one_is_made_that_survives_a_restart(traces, exporter, given):
    traces.learn(announced(given))
    made = opened(traces)
    assert TRACE not in made
    assert made.split("-") == later(EventTraces(TracerProvider()))
    traces.record(ended(code="cancelled", outcome="aborted"))
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == made.split("-")[1]
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "cancelled"


def test_a_persons_order_takes_no_release_into_its_own_trace(traces):
    before = later(traces)
    order = k.event(f.ReleaseCancelled, correlationid=RELEASE, traceparent=JOB)
    traces.learn(order)
    assert later(traces) == before


def test_the_first_trace_of_a_release_stays(traces):
    traces.learn(k.event(f.ReleaseOpened, correlationid=RELEASE, traceparent=JOB))
    traces.learn(k.event(f.CheckpointMerged, correlationid=RELEASE, traceparent=f"00-{'a' * 32}-{SPAN}-01"))
    assert later(traces)[1] == TRACE


def test_what_is_kept_is_bounded(traces):
    for number in range(5000):
        traces.learn(k.event(f.ReleaseOpened, correlationid=f"r-{number}", traceparent=JOB))
    assert len(traces._known) <= 4096


def test_an_event_within_a_span_of_the_trace_has_it_as_parent_and_no_span_of_another_trace(traces):
    traces.learn(announced())
    opened(traces)
    provider = TracerProvider()
    with provider.get_tracer("t").start_as_current_span("foreign"):
        assert later(traces) == opened(traces).split("-")
