"""The metrics of triggers, declared in `METRICS` (docs/extending.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from .facts.watch import AlertKind, Features, Inference
    from .policy import Trigger

TriggerMetric = Literal[
    "ttft_ms",
    "itl_ms",
    "e2e_ms",
    "queue_ms",
    "goodput_ratio",
    "error_ratio",
    "refusal_ratio",
    "empty_ratio",
    "repetition_ratio",
    "other_language_ratio",
    "invalid_json_ratio",
    "cut_off_ratio",
    "output_tokens",
    "logprob_mean",
    "nan_logits",
    "drift",
    "evaluation_drop",
]
Parameter = Literal[
    "shape", "length", "limit", "short_limit", "stop", "several", "prompts", "prompt_logprobs", "special_tokens"
]
"""Kinds of request parameters that force metrics (`services.gateway.domain.shaping`)."""
CANCELLED: Final = "cancelled"
REPETITIVE: Final = 0.5
"""Least repeated share of an answer's end in a repetitive answer."""
SAME_LANGUAGE: Final = 0.5
"""Least share of an answer in the language of the user's last text for an answer in that language."""
LONGEST_DELAY_MS: Final = 600_000
LONGEST_REHEARSED_MS: Final = 299_000.0
"""Largest latency threshold that a drill can exceed clearly."""


@dataclass(frozen=True)
class MetricRule:
    """A metric of triggers.

    Attributes:
        kind: Kind of its alerts.
        says: Description of bad requests in an alert, after their share; format fields `{threshold}` and `{side}`.
        limits: Meaning of a threshold: limit of each request's figure, of the share of bad or of good requests, or of a
            distance between distributions or scores.
        bound: `lower` if figures below the threshold are bad; None if the trigger decides.
        thresholds: Lowest and highest threshold.
        sees: Requests that count: `all`, also cancelled ones; `ended`, also failed ones; or `answered` ones.
        is_bad: Whether a request is bad for a trigger; None if unknown.
        fault: Fields of `DrillFault` for a rehearsal, as values or functions of the trigger, that put every affected
            request clearly beyond the threshold; empty if no short fault can.
        forced_by: Kinds of request parameters that force the metric.
        figure: The figure of a request.
        histogram: Field of a window summary with the figures.
    """

    kind: AlertKind
    fault: Mapping[str, Any]
    says: str = ""
    limits: Literal["figure", "bad_share", "good_share", "distance"] = "bad_share"
    bound: Literal["upper", "lower"] | None = "upper"
    thresholds: tuple[float, float] = (0.0, math.inf)
    sees: Literal["all", "ended", "answered"] = "answered"
    is_bad: Callable[[Inference, Trigger], bool | None] = lambda _record, _trigger: None
    forced_by: tuple[Parameter, ...] = ()
    figure: Callable[[Inference], float | None] = lambda _record: None
    histogram: str = ""


def _is_beyond(record: Inference, trigger: Trigger) -> bool | None:
    figure = trigger.rule.figure(record)
    if figure is None:
        return None
    return figure < trigger.threshold if trigger.is_lower_bound else figure > trigger.threshold


def _is_late(record: Inference, trigger: Trigger) -> bool | None:
    if record.ttft_ms is not None:
        return record.ttft_ms > trigger.threshold
    explained = record.output_tokens > 0 and "empty_ratio" in record.forced_metrics
    return True if record.e2e_ms > trigger.threshold and not explained else None


def _is_long(record: Inference, trigger: Trigger) -> bool | None:
    over = record.e2e_ms > trigger.threshold
    if record.finish_reason == CANCELLED:
        waited_in_vain = over and record.ttft_ms is None and not record.output_tokens
        return True if waited_in_vain else None
    if over:
        return True
    return False if record.error is None else None


def _is_cut_off(record: Inference, _trigger: Trigger) -> bool | None:
    """Return whether an answer ended at the target's token limit; None if its prompt may have filled the context."""
    if record.finish_reason != "length":
        return None if record.finish_reason is None else False
    fills_context = record.output_tokens < record.input_tokens and record.drill is None
    return None if fills_context else True


def _has_odd_length(record: Inference, trigger: Trigger) -> bool | None:
    if record.finish_reason is None:
        return None
    return bool(_is_beyond(record, trigger)) and not (trigger.is_lower_bound and record.finish_reason == "length")


def _if_described(is_bad: Callable[[Features], bool | None]) -> Callable[[Inference, Trigger], bool | None]:
    return lambda record, _trigger: None if record.features is None else is_bad(record.features)


def _is_in_other_language(features: Features) -> bool | None:
    return None if features.language_ratio is None else features.language_ratio < SAME_LANGUAGE


def _is_invalid_json(record: Inference, _trigger: Trigger) -> bool | None:
    """Return whether a complete answer violates the JSON Schema or the tools of its request."""
    if record.features is None or record.features.valid_json is None:
        return None
    return not record.features.valid_json and record.finish_reason != "length"


def _twice(trigger: Trigger) -> int:
    return int(min(2 * trigger.threshold, 1e9)) + 100


def _longer_ms(trigger: Trigger) -> int:
    return min(_twice(trigger), LONGEST_DELAY_MS)


METRICS: Final[Mapping[TriggerMetric, MetricRule]] = {
    "ttft_ms": MetricRule(
        kind="latency",
        says="of answers began after {threshold:g} ms",
        limits="figure",
        sees="all",
        is_bad=_is_late,
        fault={"delay_ms": _longer_ms},
        forced_by=("prompts", "prompt_logprobs"),
        figure=lambda record: record.ttft_ms,
        histogram="ttft_histogram",
    ),
    "itl_ms": MetricRule(
        kind="latency",
        says="of answers took more than {threshold:g} ms per token",
        limits="figure",
        thresholds=(0.0, LONGEST_REHEARSED_MS),
        sees="all",
        is_bad=_is_beyond,
        fault={"token_delay_ms": _longer_ms},
        forced_by=("prompts",),
        figure=lambda record: None if record.itl_ms is None else record.itl_ms.mean,
        histogram="itl_histogram",
    ),
    "e2e_ms": MetricRule(
        kind="latency",
        says="of answers took more than {threshold:g} ms",
        limits="figure",
        sees="all",
        is_bad=_is_long,
        fault={"delay_ms": _longer_ms},
        forced_by=("shape", "length", "prompts", "prompt_logprobs"),
        figure=lambda record: record.e2e_ms,
        histogram="e2e_histogram",
    ),
    "queue_ms": MetricRule(
        kind="latency",
        says="of requests waited more than {threshold:g} ms in the engine's queue",
        limits="figure",
        thresholds=(0.0, LONGEST_REHEARSED_MS),
        sees="all",
        is_bad=_is_beyond,
        fault={"queue_delay_ms": _longer_ms},
        forced_by=("prompts",),
        figure=lambda record: record.queue_ms,
    ),
    "goodput_ratio": MetricRule(  # a request is bad that failed, or missed an SLO of its policy
        kind="latency",
        says="of requests failed or missed an SLO",
        limits="good_share",
        bound="lower",
        thresholds=(0.001, 1.0),
        sees="all",
        fault={"error_ratio": 1.0},
    ),
    "error_ratio": MetricRule(
        kind="errors",
        says="of requests failed",
        sees="ended",
        is_bad=lambda record, _trigger: record.error is not None,
        fault={"error_ratio": 1.0},
    ),
    "refusal_ratio": MetricRule(
        kind="quality",
        says="of answers were refusals",
        is_bad=_if_described(lambda features: features.refusal),
        fault={"answer": "refusal"},
        forced_by=("shape",),
    ),
    "empty_ratio": MetricRule(
        kind="quality",
        says="of answers were empty",
        is_bad=_if_described(lambda features: features.empty),
        fault={"answer": "empty"},
        forced_by=("shape", "length", "short_limit", "stop", "special_tokens"),
    ),
    "repetition_ratio": MetricRule(
        kind="quality",
        says="of answers were repetitive",
        is_bad=_if_described(lambda features: features.repetition_ratio >= REPETITIVE),
        fault={"garble": True},
        forced_by=("shape", "length"),
    ),
    "other_language_ratio": MetricRule(
        kind="quality",
        says="of answers were in another language than their users' texts",
        is_bad=_if_described(_is_in_other_language),
        fault={},
        forced_by=("shape", "length"),
    ),
    "invalid_json_ratio": MetricRule(
        kind="quality",
        says="of answers were not as the JSON Schema or the tools of their requests say",
        is_bad=_is_invalid_json,
        fault={},
        forced_by=("shape", "length", "stop", "special_tokens"),
    ),
    "cut_off_ratio": MetricRule(
        kind="quality",
        says="of answers were cut off at the token limit",
        thresholds=(0.0, 0.999),
        is_bad=_is_cut_off,
        fault={"answer": "cut"},
        forced_by=("shape", "length", "limit"),
    ),
    "output_tokens": MetricRule(
        kind="quality",
        says="of answers had {side} than {threshold:g} tokens",
        limits="figure",
        bound=None,
        thresholds=(0.0, 100_000_000.0),
        is_bad=_has_odd_length,
        fault={"output_tokens": lambda trigger: 0 if trigger.is_lower_bound else _twice(trigger)},
        forced_by=("shape", "length", "stop", "several", "prompts"),
        figure=lambda record: record.output_tokens,
    ),
    "logprob_mean": MetricRule(
        kind="quality",
        says="of answers had a mean log-probability below {threshold:g} nats",
        limits="figure",
        bound="lower",
        thresholds=(-1000.0, -0.001),
        is_bad=_is_beyond,
        fault={"logprob_shift": lambda trigger: trigger.threshold - 1.0},
        forced_by=("shape", "length"),
        figure=lambda record: record.logprob_mean,
    ),
    "nan_logits": MetricRule(
        kind="quality",
        says="of requests met NaN logits",
        thresholds=(0.0, 0.999),
        sees="ended",
        is_bad=lambda record, _trigger: record.nan_logits,
        fault={"nan_logits": True},
    ),
    "drift": MetricRule(kind="drift", limits="distance", fault={}),
    "evaluation_drop": MetricRule(kind="quality", limits="distance", thresholds=(0.01, 0.99), fault={}),
}
SLO_METRICS: Final = tuple(name for name, rule in METRICS.items() if (rule.kind, rule.limits) == ("latency", "figure"))
"""Metrics with triggers that are SLOs; `goodput_ratio` counts the requests that meet all SLOs of a policy."""
