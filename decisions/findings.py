"""From the evidence about a target to a finding per trigger."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from contracts.facts.watch import AlertKind, PairCounts, Severity
from contracts.policy import Trigger
from decisions.alerts import Finding
from decisions.evidence import EDetector, as_e_value
from decisions.hard_failures import HardFailure, Runs, assess_runs
from decisions.observation import CALM_REQUESTS, Recent, TriggerState, is_calm, recent
from decisions.pairs import has_fired
from decisions.triggers import detector_alpha, kind_of, limit_of

HARD_HOLD_S = 60.0
NO_RUNS = Runs()
HARD_KEYS: dict[AlertKind, str] = {"errors": "all-failing", "quality": "all-empty"}
_HARD_METRICS: dict[AlertKind, str] = {"errors": "error_ratio", "quality": "empty_ratio"}


def assess_triggers(
    states: Mapping[str, TriggerState],
    triggers: Sequence[Trigger],
    now: datetime,
    *,
    runs: Runs = NO_RUNS,
    endpoints: Collection[str] = (),
    run_began_at: datetime | None = None,
    hard_run: int,
) -> tuple[Finding, ...]:
    """Return the finding of every trigger of a target, and of the hard failures that no trigger covers.

    Args:
        states: The evidence, by the name of the trigger; a trigger without observations has none.
        triggers: The triggers that observe request by request (`decisions.triggers.sequential`).
        now: The time.
        runs: Which requests in a row failed or were empty, and which engines are dead.
        endpoints: Where the target is served.
        run_began_at: When the run began.
        hard_run: The length of a run that is a hard failure.
    """
    hard = assess_runs(runs, run=hard_run, endpoints=endpoints)
    error = runs.error if runs.errors else ""
    findings = []
    for trigger in triggers:
        state = states.get(trigger.name)
        if state is not None:
            applies = hard if hard is not None and trigger.metric == _HARD_METRICS[hard.kind] else None
            findings.append(assess_trigger(trigger, state, now, applies, error=error))
    covered = {trigger.metric for trigger in triggers}
    for kind, metric in _HARD_METRICS.items():  # one that a trigger covers only ends an alert from before its policy
        finding = _assess_hard(kind, runs, run_began_at, hard, error)
        findings.append(replace(finding, fired=finding.fired and metric not in covered))
    return tuple(findings)


def assess_trigger(
    trigger: Trigger,
    state: TriggerState,
    now: datetime,
    hard: HardFailure | None = None,
    *,
    error: str = "",
) -> Finding:
    """Return the finding of one trigger; `error` is how the last request failed."""
    evidence, limit = state.evidence, limit_of(trigger)
    enough = evidence.trials >= trigger.min_requests
    alpha = detector_alpha(trigger) if isinstance(evidence, EDetector) else trigger.alpha
    over_limit = evidence.crossed(alpha) and enough
    pair = state.pair
    worse = pair is not None and pair.pairs >= trigger.min_requests and pair.discordant.crossed(trigger.alpha)
    mirrored = state.mirrored
    by_pairs = has_fired(trigger, mirrored)
    calm_requests = min(trigger.min_requests, CALM_REQUESTS)
    calm = hard is None and is_calm(state.slots, trigger.window_s, now, limit=limit, requests=calm_requests)
    # The whole window would hide a regression that began a moment ago among the good requests before it.
    shown = recent(state.slots, trigger.window_s, now, state.first_bad_at)
    message = _message(trigger, shown, limit)
    if hard is not None:
        message = f"{hard.message} {message}"
    elif worse and not over_limit and pair is not None:
        message = (
            f"Worse than the concurrent baseline: bad on {pair.candidate_hits} of {pair.pairs} against "
            f"{pair.baseline_hits}. {message}"
        )
    elif by_pairs and not over_limit and mirrored is not None:
        message = f"{_describe_pairs(mirrored.counts)} {message}"
    if kind_of(trigger) == "errors":
        message += _describe_error(error)
    if shown.drilled:
        message += f" A drill touched {shown.drilled} of the bad ones ({state.drill})."
    return Finding(
        key=trigger.name,
        kind=kind_of(trigger),
        severity=severity_of(trigger),
        trigger=trigger.name,
        fired=over_limit or worse or hard is not None or by_pairs,
        calm=calm,
        hold_s=trigger.window_s,
        message=message,
        value=shown.ratio,
        limit=limit,
        window=shown.window,
        requests=shown.trials,
        e_value=as_e_value(max(evidence.peak, pair.discordant.peak if worse and pair is not None else evidence.peak)),
        first_bad_at=state.first_bad_at,
        drill=state.drill if 2 * shown.drilled >= shown.hits else None,
        answers_nothing=hard is not None and hard.kind == "errors",
        pairs=mirrored.counts if mirrored is not None else None,
    )


def _describe_error(error: str) -> str:
    return f" The last one failed with {error}." if error else ""


def _describe_pairs(counts: PairCounts) -> str:
    total = counts.both + counts.neither + counts.only_target + counts.only_other
    return (
        f"Of {total} requests that the other version answered as well, {counts.only_target} were bad on this one only, "
        f"{counts.only_other} on the other only, {counts.both} on both."
    )


def severity_of(trigger: Trigger) -> Severity:
    """Return the severity of a trigger's alerts: critical if it rolls back automatically."""
    return "critical" if trigger.action == "automatic" else "warning"


_DESCRIPTIONS = {
    "ttft_ms": "of answers began after {threshold:g} ms",
    "itl_ms": "of answers took more than {threshold:g} ms per token",
    "e2e_ms": "of answers took more than {threshold:g} ms",
    "queue_ms": "of requests waited more than {threshold:g} ms in the engine's queue",
    "goodput_ratio": "of requests failed or missed an SLO",
    "error_ratio": "of requests failed",
    "refusal_ratio": "of answers were refusals",
    "empty_ratio": "of answers were empty",
    "repetition_ratio": "of answers were repetitive",
    "cut_off_ratio": "of answers were cut off at the token limit",
    "output_tokens": "of answers had {side} than {threshold:g} tokens",
    "logprob_mean": "of answers had a mean log-probability below {threshold:g} nats",
    "nan_logits": "of requests met NaN logits",
}


def _message(trigger: Trigger, last: Recent, limit: float) -> str:
    side = "fewer" if trigger.is_lower_bound else "more"
    description = _DESCRIPTIONS[trigger.metric].format(threshold=trigger.threshold, side=side)
    share = "none" if last.ratio is None else f"{100 * last.ratio:.3g} %"
    length_s = (last.window.to - last.window.from_).total_seconds()
    counted = f"in the last {length_s:.3g} s ({last.hits} of {last.trials})"
    return f"{share} {description} {counted}; {100 * limit:.3g} % are allowed."


def _assess_hard(
    kind: AlertKind, runs: Runs, run_began_at: datetime | None, hard: HardFailure | None, error: str
) -> Finding:
    failure = hard if hard is not None and hard.kind == kind else None
    run = runs.errors if kind == "errors" else runs.empties
    return Finding(
        key=HARD_KEYS[kind],
        kind=kind,
        severity="critical",
        trigger=None,
        fired=failure is not None,
        calm=run == 0,
        hold_s=HARD_HOLD_S,
        message=failure.message + _describe_error(error) if failure else "Requests are answered again.",
        requests=run,
        answers_nothing=failure is not None and kind == "errors",
        first_bad_at=run_began_at if failure else None,
    )
