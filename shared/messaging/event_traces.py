"""Assigns events to traces, and records the span of a release at its end.

A release is one trace: the announcement's `traceparent`, else a trace id derived from the release's id. The span id of
a release is derived from its id, so that every service can name it as a parent.
"""

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from contracts.envelope import Event
from contracts.facts import CheckpointReady, Fact, ReleaseFinished, ReleaseOpened
from contracts.services import EVENTS, stream_of

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
_KEPT: Final = 4096
"""Traces kept in memory."""


@dataclass(frozen=True)
class Origin:
    """The trace of a release.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: the span of the training job, 16 hexadecimal digits; None if the announcement named none.
    """

    trace_id: str
    parent_id: str | None = None


class EventTraces:
    """The traces of releases known to one service; after a restart, learned from each release's next event."""

    def __init__(self, tracing: TracerProvider) -> None:
        self._tracing = tracing
        self._known: OrderedDict[str, Origin] = OrderedDict()

    def learn(self, event: Event[Any]) -> None:
        """Note the trace of a handled event: of an announcement by its id, of a fact by its release."""
        given = _TRACEPARENT.fullmatch(event.traceparent or "")
        if given is None:
            return
        if isinstance(event.data, CheckpointReady):
            self._note(event.id, Origin(given[1], given[2]))
        elif stream_of(type(event.data)) == EVENTS:  # a person's order belongs to a release, and begins none
            self._note(event.correlationid, Origin(given[1]))

    def traceparent_of(self, fact: Fact, correlation_id: str, cause_id: str | None) -> str:
        """Return the W3C traceparent of an event to publish.

        The parent is the current span if it belongs to the trace, else the span of the release: timers and restarts
        have no current span.
        """
        if isinstance(fact, ReleaseOpened) and cause_id is not None and cause_id in self._known:
            self._note(correlation_id, self._known[cause_id])
        origin = self._origin(correlation_id)
        current = trace.get_current_span().get_span_context()
        is_within = current.is_valid and f"{current.trace_id:032x}" == origin.trace_id
        parent = f"{current.span_id:016x}" if is_within else _digest(correlation_id)[32:48]
        return f"00-{origin.trace_id}-{parent}-01"

    def record(self, event: Event[Any]) -> None:
        """Record the span of a release at its last event, from its first step to now; ignore other events."""
        if not isinstance(event.data, ReleaseFinished):
            return
        finished, digest = event.data, _digest(event.correlationid)
        origin = self._origin(event.correlationid)
        tracer = cast(Tracer, self._tracing.get_tracer("slipway.release"))
        tracer.id_generator = _GivenIds(int(origin.trace_id, 16), int(digest[32:48], 16))
        tracer.sampler = ALWAYS_ON  # the ratio of the settings is that of requests
        steps = finished.timeline
        span = tracer.start_span(
            f"release {finished.model}",
            _context(origin),
            attributes={
                "slipway.release_id": finished.release_id,
                "slipway.version": finished.version,
                "slipway.outcome": finished.outcome,
            },
            start_time=_ns(min((event.time, *(step.at for step in steps)))),
        )
        for step in steps:
            span.add_event(step.step, timestamp=_ns(step.at))
        if finished.code is not None:
            span.set_attribute("error.type", finished.code)
            span.set_status(Status(StatusCode.ERROR, finished.outcome))
        span.end(_ns(event.time))

    def _origin(self, correlation_id: str) -> Origin:
        return self._known.get(correlation_id) or Origin(_digest(correlation_id)[:32])

    def _note(self, name: str, origin: Origin) -> None:
        self._known.setdefault(name, origin)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)


class _GivenIds(RandomIdGenerator):
    """Generates one given trace id and one given span id."""

    def __init__(self, trace_id: int, span_id: int) -> None:
        self._trace_id, self._span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        """Return the given trace ID."""
        return self._trace_id

    def generate_span_id(self) -> int:
        """Return the given span id."""
        return self._span_id


def _context(origin: Origin) -> Any:
    """Return the context of a release's span: the training job's span, or no parent."""
    if origin.parent_id is None:
        return set_span_in_context(trace.INVALID_SPAN)
    flags = TraceFlags(TraceFlags.SAMPLED)
    parent = SpanContext(int(origin.trace_id, 16), int(origin.parent_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent))


def _digest(correlation_id: str) -> str:
    return hashlib.sha256(correlation_id.encode()).hexdigest()


def _ns(at: Any) -> int:
    return int(at.timestamp() * 1e6) * 1000
