"""Which trigger sees what in a request, and what it takes for bad."""

from collections.abc import Iterable
from dataclasses import dataclass

from contracts.facts import Inference
from contracts.facts.watch import AlertKind
from contracts.policy import Trigger

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

    An answer that failed or was given up says of its latency only that it was at least so long as it was waited for.
    A caller that goes away says nothing against the target's quality or errors.
    """
    ended = record.error is None and record.finish_reason != CANCELLED
    if trigger.metric == "ttft_ms":
        if record.ttft_ms is not None:
            return record.ttft_ms > trigger.threshold
        return True if record.e2e_ms > trigger.threshold and not ended else None
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


def is_plausible(record: Inference) -> bool:
    """Tell whether a record's figures can be true; others are counted and left aside."""
    times = (record.e2e_ms, record.ttft_ms if record.ttft_ms is not None else 0.0)
    itl = record.itl_ms
    gaps = (itl.mean, itl.p95, itl.max) if itl is not None else ()
    return all(0.0 <= one < 86_400_000.0 for one in (*times, *gaps)) and record.output_tokens >= 0


@dataclass(frozen=True)
class HardFailure:
    """Every one of the last requests failed outright: no statistics needed."""

    kind: AlertKind
    run: int
    what: str


def count_runs(runs: tuple[int, int], record: Inference) -> tuple[int, int]:
    """Count how many requests in a row were errors, and how many had an empty output."""
    errors, empties = runs
    if record.finish_reason == CANCELLED:
        return runs
    if record.error is not None:
        return errors + 1, empties
    empty = record.features is not None and record.features.empty
    return 0, empties + 1 if empty else 0


def assess_runs(runs: tuple[int, int], *, run: int) -> HardFailure | None:
    """Tell whether the last `run` requests all failed, or all came out empty."""
    errors, empties = runs
    if errors >= run:
        return HardFailure("errors", errors, f"The last {errors} requests all failed.")
    if empties >= run:
        return HardFailure("quality", empties, f"The last {empties} answers were all empty.")
    return None
