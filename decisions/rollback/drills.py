"""Drills: their time, description, and effect on telemetry records."""

from datetime import datetime
from typing import Any, Final

from contracts.drills import LONGEST, Drill
from contracts.facts import DrillFault, Inference, RehearsalCertificate
from contracts.trigger_metrics import CANCELLED, METRICS, TriggerMetric

FLAGS: Final = tuple(name for name, field in DrillFault.model_fields.items() if field.default is False)
"""Boolean faults."""
_DELAYS: Final = frozenset({"delay_ms", "token_delay_ms", "queue_delay_ms"})


def is_in_progress(drill: Drill, now: datetime) -> bool:
    """Return whether a drill is in progress, at most for `LONGEST` after its start."""
    return drill.share_ratio > 0.0 and now < min(drill.expires_at, drill.starts_at + LONGEST)


def describe_fault(fault: DrillFault) -> str:
    """Return a fault in the form of the command line."""
    given = fault.model_dump(exclude_defaults=True)
    parts = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items())
    return " ".join(part.removesuffix("=True") for part in parts) or "nothing"


def change_record(fault: DrillFault, record: Inference) -> Inference:
    """Return the telemetry record of an affected request, changed by the fault (`contracts.drills`).

    Times, text and errors are in the record already. Metrics that the fault worsens are removed from `forced_metrics`.
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
    """Return the metrics that a fault worsens."""
    given = fault.model_dump(exclude_defaults=True)
    if not _DELAYS.isdisjoint(given):
        given |= dict.fromkeys(_DELAYS)
    return {
        metric
        for metric, rule in METRICS.items()
        if rule.limits != "good_share"
        and any(name in given and (callable(value) or given[name] == value) for name, value in rule.fault.items())
    }


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


def describe_detection(certificate: RehearsalCertificate) -> str:
    """Return version and date of an earlier rehearsal of detection; empty without one."""
    if certificate.detected_with is None:
        return ""
    return f"detection rehearsed with v{certificate.detected_with} on {certificate.injected_at:%Y-%m-%d}"
