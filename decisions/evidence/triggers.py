"""The meaning of a declared trigger: the requests that it sees, the bad ones among them, and its limit."""

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
"""Errors where the active version answers count also where a policy has no trigger for them."""
EMPTY_IN_SHADOW = Trigger(name="empty-in-shadow", metric="empty_ratio", threshold=0.5, min_requests=1, action="manual")
"""Without a trigger for empty answers, a candidate most of whose answers are empty fails all the same."""


@dataclass(frozen=True)
class Outcome:
    """A request as a trigger sees it.

    Attributes:
        at: When the request arrived.
        ended_at: When it ended; it counts in the window of that time.
        drill: The drill that touched it.
        caller: A pseudonym of the key that was presented; empty if unknown.
        holder: The team of its caller's key, or that key; empty if unknown.
    """

    bad: bool
    at: datetime
    ended_at: datetime
    drill: str | None = None
    caller: str = ""
    holder: str = ""


def limit_of(trigger: Trigger) -> float:
    """Return the ratio of bad requests that a trigger allows (the p0 of its test)."""
    if trigger.rule.limits == "figure":
        return trigger.allowed_ratio
    return 1.0 - trigger.threshold if trigger.rule.limits == "good_share" else min(trigger.threshold, 1.0)


def kind_of(trigger: Trigger) -> AlertKind:
    """Return the kind of alert that a trigger raises."""
    return trigger.rule.kind


def find_trigger(triggers: Iterable[Trigger], metric: TriggerMetric) -> Trigger | None:
    """Return the first trigger for a metric; None without one."""
    return next((trigger for trigger in triggers if trigger.metric == metric), None)


def sequential(triggers: Iterable[Trigger]) -> tuple[Trigger, ...]:
    """Return the triggers that watch request by request: without distances, and those that nothing can exceed."""
    return tuple(trigger for trigger in triggers if trigger.rule.limits != "distance" and limit_of(trigger) < 1.0)


def can_judge(trigger: Trigger | None) -> bool:
    """Return whether a shadow can show a trigger's metric: errors and answers, of each request."""
    return trigger is not None and bool(sequential([trigger])) and kind_of(trigger) in ("errors", "quality")


def triggers_of_shadow(declared: Iterable[Trigger]) -> tuple[Trigger, ...]:
    """Return the triggers by which a shadow is judged: the policy's, and own ones that it lacks."""
    watching = sequential(declared)
    metrics = {trigger.metric for trigger in watching}
    own = (trigger for trigger in (ERRORS_IN_SHADOW, EMPTY_IN_SHADOW) if trigger.metric not in metrics)
    return (*watching, *own)


def observe(trigger: Trigger, record: Inference, declared: Sequence[Trigger] = ()) -> bool | None:
    """Return whether a request is bad for a trigger; None where it is neither good nor bad.

    A failure by caller, gateway or infrastructure is no evidence (`attribution`), nor is a metric that the
    caller's parameters force, except for metrics that a drill worsens on purpose.
    The latency of a request that failed through the target, or that was given up before the first token, is only known
    to be at least as long as it was waited for; so is the time to the first token of an answer that ended without any
    text. An answer that ended at a limit is not too short.

    Args:
        trigger: the trigger.
        record: the request.
        declared: all triggers of its policy; the SLOs among them decide about `goodput_ratio`.
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
    """Return whether it is for its caller's parameters alone that a request is neither good nor bad for a trigger."""
    if observe(trigger, record, declared) is not None:
        return False
    return observe(trigger, record.model_copy(update={"forced_metrics": ()}), declared) is not None


def ended_at(record: Inference) -> datetime:
    """Return a record's event time: when its request ended, so that a slow request is not a late one.

    Its times leave out a wait before it was sent for which its target is not responsible, so it is the earliest time.
    """
    return max(record.sent_at, record.scheduled_at + timedelta(milliseconds=record.e2e_ms))


def outcomes_of(trigger: Trigger, records: Iterable[Inference], declared: Sequence[Trigger] = ()) -> list[Outcome]:
    """Return a trigger's observations of records; records that are neither good nor bad are left out."""
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
    """Return whether a request failed or missed an SLO; None if nothing is known of any.

    A caller that leaves measures less: its request counts if it missed an SLO before, and is never good.
    """
    if not slos or (record.finish_reason != CANCELLED and record.error is not None):
        return True if slos else None
    if any(slos):
        return True
    is_known = record.finish_reason != CANCELLED and any(slo is not None for slo in slos)
    return False if is_known else None


def is_empty(record: Inference) -> bool:
    """Return whether an answer held no text though the caller's own parameters allowed for some."""
    return record.features is not None and record.features.empty and "empty_ratio" not in record.forced_metrics
