"""From the evidence about a target to a finding per trigger."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from contracts.facts.watch import AlertKind, DeathCounts, PairCounts, Severity
from contracts.policy import Trigger
from decisions.alerts import Finding
from decisions.confirmation import confirm
from decisions.engine_deaths import DeathLog
from decisions.evidence import EDetector, as_e_value
from decisions.hard_failures import HardFailure, assess_runs
from decisions.observation import CALM_REQUESTS, Recent, TriggerState, is_calm, recent
from decisions.pairs import MirrorTest, has_fired
from decisions.triggers import detector_alpha, kind_of, limit_of

HARD_HOLD_S = 60.0
NO_DEATHS = DeathLog()
HARD_KEYS: dict[AlertKind, str] = {"errors": "all-failing", "quality": "all-empty"}
_HARD_METRICS: dict[AlertKind, str] = {"errors": "error_ratio", "quality": "empty_ratio"}


def assess_triggers(
    states: Mapping[str, TriggerState],
    triggers: Sequence[Trigger],
    now: datetime,
    *,
    runs: tuple[int, int] = (0, 0),
    run_began_at: datetime | None = None,
    run_error: str = "",
    hard_run: int,
    deaths: DeathLog = NO_DEATHS,
) -> tuple[Finding, ...]:
    """Return the finding of every trigger of a target, and of the hard failures that no trigger covers.

    Args:
        states: The evidence, by the name of the trigger; a trigger without observations has none.
        triggers: The triggers that observe request by request (`decisions.triggers.sequential`).
        now: The time.
        runs: How many requests in a row failed, and how many were empty.
        run_began_at: When the run began.
        run_error: How the last request that failed did.
        hard_run: The length of a run that is a hard failure.
        deaths: Deaths of the target's engine.
    """
    hard = assess_runs(runs, run=hard_run)
    error = run_error if runs[0] else ""
    findings = []
    for trigger in triggers:
        state = states.get(trigger.name)
        if state is not None:
            applies = hard if hard is not None and trigger.metric == _HARD_METRICS[hard.kind] else None
            findings.append(assess_trigger(trigger, state, now, applies, deaths=deaths, error=error))
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
    deaths: DeathLog = NO_DEATHS,
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
    confirmed_by = confirm(trigger, state, drilled=2 * shown.drilled >= shown.hits > 0, deaths=deaths)
    if confirmed_by == "none":
        message += f" Nothing shows yet that the version is the cause, and not its callers.{_left_out(mirrored)}"
        message += describe_deaths(deaths.counts)
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
        confirmed_by=confirmed_by,
        pairs=mirrored.counts if mirrored is not None else None,
        deaths=deaths.counts,
    )


def _describe_error(error: str) -> str:
    return f" The last one failed with {error}." if error else ""


def describe_deaths(counts: DeathCounts | None) -> str:
    """Return what deaths of the engine show; empty without any."""
    if counts is None:
        return ""
    times = "once" if counts.deaths == 1 else f"{counts.deaths} times"
    if counts.suspect is not None:
        return f" Its engine died {times}; only caller {counts.suspect} had requests there each time."
    if not counts.explained:
        return f" Its engine died {times}; callers with at most half of the requests do not explain it."
    if counts.holders == 0:
        return f" Its engine died {times}; it is not known who had requests there."
    return f" Its engine died {times}; requests of {counts.holders} caller{'s' * (counts.holders != 1)} may explain it."


def _left_out(mirrored: MirrorTest | None) -> str:
    """Return how many pairs are left out of the evidence; empty if there is none."""
    if mirrored is None or mirrored.capped == 0:
        return ""
    return f" {mirrored.capped} pairs that were bad on it only are left out: of each caller only a part counts."


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
    kind: AlertKind, runs: tuple[int, int], run_began_at: datetime | None, hard: HardFailure | None, error: str
) -> Finding:
    failure = hard if hard is not None and hard.kind == kind else None
    run = runs[0] if kind == "errors" else runs[1]
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
        first_bad_at=run_began_at if failure else None,
    )
