"""From a target's evidence to what can be said about each trigger now."""

from datetime import datetime

from contracts.facts.watch import AlertKind, Severity
from contracts.policy import Trigger
from decisions.evidence import EDetector, as_e_value
from decisions.triggers import detector_alpha, kind_of, limit_of, sequential
from services.monitor.domain.alerts import Finding
from services.monitor.domain.record import Policy, TargetState, TriggerState
from services.monitor.domain.triggers import HardFailure, assess_runs
from services.monitor.domain.windows import Recent, recent

CALM_REQUESTS = 10
HARD_HOLD_S = 60.0
HARD_KEYS: dict[AlertKind, str] = {"errors": "all-failing", "quality": "all-empty"}
_HARD_METRICS: dict[AlertKind, str] = {"errors": "error_ratio", "quality": "empty_ratio"}


def find(state: TargetState, policy: Policy | None, now: datetime, *, hard_run: int) -> tuple[Finding, ...]:
    """List what every trigger of a target says, and the hard failures that no trigger covers."""
    triggers = sequential(policy.triggers) if policy else ()
    hard = assess_runs(state.runs, run=hard_run)
    found = []
    for trigger in triggers:
        seen = state.triggers.get(trigger.name)
        if seen is not None:
            applies = hard if hard is not None and trigger.metric == _HARD_METRICS[hard.kind] else None
            found.append(_of_trigger(trigger, seen, now, applies))
    covered = {trigger.metric for trigger in triggers}
    found += [_uncovered(kind, state, hard) for kind, metric in _HARD_METRICS.items() if metric not in covered]
    return tuple(found)


def _of_trigger(trigger: Trigger, state: TriggerState, now: datetime, hard: HardFailure | None) -> Finding:
    evidence, limit = state.evidence, limit_of(trigger)
    last = recent(state.slots, trigger.window_s, now)
    enough = evidence.trials >= trigger.min_requests
    alpha = detector_alpha(trigger) if isinstance(evidence, EDetector) else trigger.alpha
    over_limit = evidence.crossed(alpha) and enough
    pair = state.pair
    worse = pair is not None and pair.pairs >= trigger.min_requests and pair.discordant.crossed(trigger.alpha)
    calm_at = min(trigger.min_requests, CALM_REQUESTS)
    calm = hard is None and last.ratio is not None and last.trials >= calm_at and last.ratio <= limit
    # The window's figure would drown what began a moment ago in the healthy time before it.
    shown = recent(state.slots, trigger.window_s, now, state.first_bad_at)
    message = _message(trigger, shown, limit)
    if hard is not None:
        message = f"{hard.what} {message}"
    elif worse and not over_limit and pair is not None:
        message = (
            f"Worse than the baseline beside it: bad on {pair.candidate_hits} of {pair.pairs} against "
            f"{pair.baseline_hits}. {message}"
        )
    if shown.drilled:
        message += f" A drill touched {shown.drilled} of the bad ones ({state.drill})."
    return Finding(
        key=trigger.name,
        kind=kind_of(trigger),
        severity=severity_of(trigger),
        trigger=trigger.name,
        fired=over_limit or worse or hard is not None,
        calm=calm,
        hold_s=trigger.window_s,
        message=message,
        value=shown.ratio,
        limit=limit,
        window=shown.window,
        requests=shown.trials,
        e_value=as_e_value(max(evidence.peak, pair.discordant.peak if worse and pair is not None else evidence.peak)),
        first_bad_at=state.first_bad_at,
        drill=state.drill,
    )


def severity_of(trigger: Trigger) -> Severity:
    """Return how much an alert of a trigger matters: what leads back by itself is critical."""
    return "critical" if trigger.action == "automatic" else "warning"


_SAYS = {
    "ttft_ms": "of answers began after {threshold:g} ms",
    "e2e_ms": "of answers took more than {threshold:g} ms",
    "error_ratio": "of requests failed",
    "refusal_ratio": "of answers were refusals",
    "empty_ratio": "of answers were empty",
    "repetition_ratio": "of answers went round in circles",
}


def _message(trigger: Trigger, last: Recent, limit: float) -> str:
    says = _SAYS[trigger.metric].format(threshold=trigger.threshold)
    share = "none" if last.ratio is None else f"{100 * last.ratio:.3g} %"
    spanned = (last.window.to - last.window.from_).total_seconds()
    counted = f"in the last {spanned:.3g} s ({last.hits} of {last.trials})"
    return f"{share} {says} {counted}; {100 * limit:.3g} % are allowed."


def _uncovered(kind: AlertKind, state: TargetState, hard: HardFailure | None) -> Finding:
    mine = hard if hard is not None and hard.kind == kind else None
    run = state.runs[0] if kind == "errors" else state.runs[1]
    message = mine.what if mine else "Requests are answered again."
    return Finding(
        key=HARD_KEYS[kind],
        kind=kind,
        severity="critical",
        trigger=None,
        fired=mine is not None,
        calm=run == 0,
        hold_s=HARD_HOLD_S,
        message=message,
        requests=run,
        first_bad_at=state.run_began_at if mine else None,
    )
