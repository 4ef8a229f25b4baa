"""What a declared trigger means: which requests it sees, which of them are bad, and how many it allows."""

from collections.abc import Iterable

from .facts import Inference
from .facts.watch import AlertKind
from .policy import Trigger

CANCELLED = "cancelled"
KINDS: dict[str, AlertKind] = {
    "ttft_ms": "latency", "e2e_ms": "latency", "error_ratio": "errors", "refusal_ratio": "quality",
    "empty_ratio": "quality", "repetition_ratio": "quality", "drift": "drift",
}  # fmt: skip
REPETITIVE = 0.5
"""An answer of which half the word triples are repeats is going round in circles."""


def limit_of(trigger: Trigger) -> float:
    """Give the ratio of bad requests that a trigger allows (the p0 of its test)."""
    return trigger.allowed_ratio if trigger.metric in ("ttft_ms", "e2e_ms") else min(trigger.threshold, 1.0)


def detector_alpha(trigger: Trigger) -> float:
    """Give the level of an e-detector: its average run length is at least 1/alpha *times the minimum evidence*.

    Counted in single requests, 1/alpha would be reached within the hour on a busy model, and three bad requests in a
    row would be an alarm; counted in portions of `min_requests` it costs about three nats of evidence more.
    """
    return trigger.alpha / trigger.min_requests


def kind_of(trigger: Trigger) -> AlertKind:
    """Give the kind of alert that a trigger raises."""
    return KINDS[trigger.metric]


def sequential(triggers: Iterable[Trigger]) -> tuple[Trigger, ...]:
    """Give the triggers that watch request by request: all but drift, and but those that nothing can exceed."""
    return tuple(trigger for trigger in triggers if trigger.metric != "drift" and limit_of(trigger) < 1.0)


def observe(trigger: Trigger, record: Inference) -> bool | None:
    """Tell whether a request is bad for a trigger; None when it says nothing about it.

    An answer that failed or was given up says of its latency only that it was at least so long as it was waited for;
    one that ended without any text says the same of its first token.
    A caller that goes away says nothing against the target's quality or errors.
    """
    ended = record.error is None and record.finish_reason != CANCELLED
    if trigger.metric == "ttft_ms":
        if record.ttft_ms is not None:
            return record.ttft_ms > trigger.threshold
        return True if record.e2e_ms > trigger.threshold else None
    if trigger.metric == "e2e_ms":
        over = record.e2e_ms > trigger.threshold
        return over if ended or over else None
    if record.finish_reason == CANCELLED:
        return None
    if trigger.metric == "error_ratio":
        return record.error is not None
    return _of_text(trigger.metric, record)


def _of_text(metric: str, record: Inference) -> bool | None:
    features = record.features
    if features is None or metric == "drift":
        return None
    if metric == "refusal_ratio":
        return features.refusal
    if metric == "empty_ratio":
        return features.empty
    return features.repetition_ratio >= REPETITIVE
