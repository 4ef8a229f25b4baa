"""Semantics of triggers: the requests that count, the bad ones among them, and the limit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.facts import Inference
from contracts.facts.watch import AlertKind
from contracts.policy import Trigger
from contracts.trigger_metrics import CANCELLED, SLO_METRICS, TriggerMetric
from decisions.evidence.attribution import is_excused

ERRORS_IN_SHADOW = Trigger(
    name="errors-in-shadow", metric="error_ratio", threshold=0.01, min_requests=1, action="manual"
)
"""Default trigger of shadows for errors."""
EMPTY_IN_SHADOW = Trigger(name="empty-in-shadow", metric="empty_ratio", threshold=0.5, min_requests=1, action="manual")
"""Default trigger of shadows for empty answers."""


@dataclass(frozen=True)
class Outcome:
    """The result of a request for a trigger.

    Attributes:
        at: Arrival of the request.
        ended_at: End of the request; determines its block and window.
        drill: Id of the drill that affected it.
        caller: Pseudonym of the API key; empty if unknown.
        holder: Pseudonym of the key's team, or of the key; empty if unknown.
    """

    bad: bool
    at: datetime
    ended_at: datetime
    drill: str | None = None
    caller: str = ""
    holder: str = ""


def limit_of(trigger: Trigger) -> float:
    """Return the permitted share of bad requests."""
    if trigger.rule.limits == "figure":
        return trigger.allowed_ratio
    return 1.0 - trigger.threshold if trigger.rule.limits == "good_share" else min(trigger.threshold, 1.0)


def kind_of(trigger: Trigger) -> AlertKind:
    """Return the kind of a trigger's alerts."""
    return trigger.rule.kind


def find_trigger(triggers: Iterable[Trigger], metric: TriggerMetric) -> Trigger | None:
    """Return the first trigger for a metric; None without one."""
    return next((trigger for trigger in triggers if trigger.metric == metric), None)


def sequential(triggers: Iterable[Trigger]) -> tuple[Trigger, ...]:
    """Return the triggers that observe single requests, without those that nothing can exceed."""
    return tuple(trigger for trigger in triggers if trigger.rule.limits != "distance" and limit_of(trigger) < 1.0)


def can_judge(trigger: Trigger | None) -> bool:
    """Return whether a shadow can judge a trigger: errors and quality of single requests."""
    return trigger is not None and bool(sequential([trigger])) and kind_of(trigger) in ("errors", "quality")


def triggers_of_shadow(declared: Iterable[Trigger]) -> tuple[Trigger, ...]:
    """Return the triggers of a shadow: the policy's, and default ones for metrics that it lacks."""
    watching = sequential(declared)
    metrics = {trigger.metric for trigger in watching}
    own = (trigger for trigger in (ERRORS_IN_SHADOW, EMPTY_IN_SHADOW) if trigger.metric not in metrics)
    return (*watching, *own)


def observe(trigger: Trigger, record: Inference, declared: Sequence[Trigger] = ()) -> bool | None:
    """Return whether a request is bad for a trigger; None if it does not count.

    Failures of caller, gateway or infrastructure do not count (`attribution`), nor do metrics that the request's
    parameters force, unless a drill worsens them. The latency of a request that the target failed, or that was
    cancelled before its first token, has only a lower bound, the time waited; so has the time to first token of an
    answer without text. An answer that ended at a limit is not too short.

    Args:
        trigger: The trigger.
        record: The request.
        declared: All triggers of the policy; the SLOs among them determine `goodput_ratio`.
    """
    cancelled = record.finish_reason == CANCELLED
    excused = not record.is_evidence or (is_excused(record) and not cancelled)
    if excused or trigger.metric in record.forced_metrics:
        return None
    rule = trigger.rule
    if rule.limits == "good_share":
        return _of_all([observe(slo, record) for slo in declared if slo.metric in SLO_METRICS], record)
    unseen = (cancelled and rule.sees != "all") or (record.error is not None and rule.sees == "answered")
    return None if unseen else rule.is_bad(record, trigger)


def is_hidden(trigger: Trigger, record: Inference, declared: Sequence[Trigger] = ()) -> bool:
    """Return whether a request does not count for a trigger only because its parameters force the metric."""
    if observe(trigger, record, declared) is not None:
        return False
    return observe(trigger, record.model_copy(update={"forced_metrics": ()}), declared) is not None


def ended_at(record: Inference) -> datetime:
    """Return the event time of a record: the earliest possible end of its request.

    The record's times exclude waits before sending for which the target is not responsible.
    """
    return max(record.sent_at, record.scheduled_at + timedelta(milliseconds=record.e2e_ms))


def outcomes_of(trigger: Trigger, records: Iterable[Inference], declared: Sequence[Trigger] = ()) -> list[Outcome]:
    """Return the outcomes of the records that count for a trigger."""
    observed = ((record, observe(trigger, record, declared)) for record in records)
    return [
        Outcome(
            bad=bad,
            at=record.scheduled_at,
            ended_at=ended_at(record),
            drill=record.drill,
            caller=record.caller or "",
            holder=record.holder or "",
        )
        for record, bad in observed
        if bad is not None
    ]


def _of_all(slos: Sequence[bool | None], record: Inference) -> bool | None:
    """Return whether a request failed or missed an SLO; None if unknown.

    A cancelled request counts as bad if it had missed an SLO before, and never as good.
    """
    if not slos or (record.finish_reason != CANCELLED and record.error is not None):
        return True if slos else None
    if any(slos):
        return True
    is_known = record.finish_reason != CANCELLED and any(slo is not None for slo in slos)
    return False if is_known else None


def is_empty(record: Inference) -> bool:
    """Return whether an answer is empty and the request's parameters do not force that."""
    return record.features is not None and record.features.empty and "empty_ratio" not in record.forced_metrics
