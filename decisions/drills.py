"""Rules of drills: when one is in progress, the text of its fault, and what that changes in telemetry."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from contracts.drills import LONGEST, Drill
from contracts.facts import DrillFault, Inference
from contracts.policy import TriggerMetric
from decisions.triggers import CANCELLED

_OF_ANSWER: Final[Mapping[Literal["empty", "refusal", "cut"], TriggerMetric]] = {
    "empty": "empty_ratio",
    "refusal": "refusal_ratio",
    "cut": "cut_off_ratio",
}


def is_in_progress(drill: Drill, now: datetime) -> bool:
    """Return whether a drill is in progress; a wrong clock cannot make it last longer than `LONGEST`."""
    return drill.share_ratio > 0.0 and now < min(drill.expires_at, drill.starts_at + LONGEST)


def describe_fault(fault: DrillFault) -> str:
    """Return a fault as it is typed on the command line."""
    parts = {
        f"delay_ms={fault.delay_ms}": fault.delay_ms,
        f"error_ratio={fault.error_ratio:g}": fault.error_ratio,
        "garble": fault.garble,
        f"answer={fault.answer}": fault.answer,
        f"token_delay_ms={fault.token_delay_ms}": fault.token_delay_ms,
        f"queue_delay_ms={fault.queue_delay_ms}": fault.queue_delay_ms,
        f"output_tokens={fault.output_tokens}": fault.output_tokens is not None,
        f"logprob_shift={fault.logprob_shift:g}": fault.logprob_shift,
        "nan_logits": fault.nan_logits,
    }
    return " ".join(name for name, on in parts.items() if on) or "nothing"


def change_record(fault: DrillFault, record: Inference) -> Inference:
    """Return the telemetry record of an affected request, with what a fault changes in it (`contracts.drills`).

    Times, text and errors are in the record already: the gateway delayed, altered or failed the request itself. The
    metrics that the fault makes worse are not the caller's any more, whatever its parameters force.
    """
    changes: dict[str, Any] = {}
    worse = _metrics_of(fault)
    if not worse.isdisjoint(record.forced_metrics):
        changes["forced_metrics"] = tuple(metric for metric in record.forced_metrics if metric not in worse)
    if fault.queue_delay_ms:
        changes["queue_ms"] = (record.queue_ms or 0.0) + fault.queue_delay_ms
    if record.error is None and record.finish_reason not in (None, CANCELLED):
        changes |= _changes_of_answer(fault, record)
    return record.model_copy(update=changes) if changes else record


def _metrics_of(fault: DrillFault) -> set[TriggerMetric]:
    """Return the metrics that a fault makes worse on purpose."""
    worse: set[TriggerMetric] = {_OF_ANSWER[fault.answer]} if fault.answer is not None else set()
    if fault.delay_ms or fault.token_delay_ms or fault.queue_delay_ms:
        worse |= {"ttft_ms", "itl_ms", "e2e_ms", "queue_ms"}
    if fault.garble:
        worse.add("repetition_ratio")
    if fault.output_tokens is not None:
        worse.add("output_tokens")
    if fault.logprob_shift:
        worse.add("logprob_mean")
    if fault.nan_logits:
        worse.add("nan_logits")
    return worse


def _changes_of_answer(fault: DrillFault, record: Inference) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if fault.output_tokens is not None:
        changes |= {"output_tokens": fault.output_tokens, "finish_reason": "stop"}
    if fault.answer == "cut":
        changes["finish_reason"] = "length"
    if fault.logprob_shift:
        changes["logprob_mean"] = (record.logprob_mean or 0.0) + fault.logprob_shift
    if fault.nan_logits:
        changes["nan_logits"] = True
    return changes
