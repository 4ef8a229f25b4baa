"""Facts, events and routes: complete and plausible by default, changed by keyword where the caller needs it."""

from datetime import timedelta
from typing import TypeVar

from contracts import facts as f
from contracts.envelope import Event
from contracts.routes import CanaryShare, ShadowShare, Suspended
from testbed.fact_values import DEFAULTS
from testbed.values import (
    MODEL,
    OPERATOR,
    PUBLISHER,
    RELEASE,
    START,
    after,
    base,
    deployable,
    digest,
    evals,
    inference,
    policy,
    progress,
    quality,
    ref,
    registered,
    route,
    served,
    side,
    source_for,
    staging_request,
    target,
    training,
    trigger,
    weights,
)

__all__ = [
    "DEFAULTS",
    "MODEL",
    "OPERATOR",
    "PUBLISHER",
    "RELEASE",
    "START",
    "CanaryShare",
    "ShadowShare",
    "Suspended",
    "after",
    "base",
    "deployable",
    "digest",
    "evals",
    "event",
    "fact",
    "inference",
    "policy",
    "progress",
    "quality",
    "ref",
    "registered",
    "route",
    "served",
    "side",
    "source_for",
    "staging_request",
    "target",
    "timedelta",
    "training",
    "trigger",
    "weights",
]


F = TypeVar("F", bound=f.Fact)


def fact(kind: type[F], **changes) -> F:
    """Return a fact with every field set, some by keyword."""
    known = {name: value for name, value in DEFAULTS[kind].items() if name in kind.model_fields}
    return kind(**(known | changes))


def event(data: f.Fact | type[f.Fact], **changes) -> Event:
    """Return an event with every attribute set that carries a fact, or the default fact of a kind."""
    content = data if isinstance(data, f.Fact) else fact(data)
    envelope = {
        "id": f"{content.TYPE.removeprefix('slipway.')}-1",
        "source": source_for(type(content)),
        "type": content.TYPE,
        "subject": MODEL,
        "time": START,
        "correlationid": RELEASE,
        "causationid": "run-2231",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "environment": "production",
    }
    return Event[type(content)](**(envelope | changes), data=content)
