"""Problems of a policy beyond its schema: no release can pass, a step never ends, a trigger observes nothing.

Admission, `slipway policy` and `slipway apply` refuse policies with these problems.
"""

from collections.abc import Iterator, Sequence

from contracts.evaluations import Evaluations, Schedule
from contracts.policy import MetricGate, ReleasePolicy, Statistic, Trigger
from contracts.trigger_metrics import LONGEST_REHEARSED_MS, SLO_METRICS
from decisions.evaluations.limit_tests import least_rows, least_rows_of_loss
from decisions.evaluations.verdicts import share_alpha_of_check
from decisions.policies.limits import PolicyProblem, find_endless
from decisions.scorers.languages import LANGUAGES


def list_evaluation_problems(evaluations: Evaluations) -> Iterator[PolicyProblem]:
    """Yield the problems of a policy's evaluations."""
    for number, evaluation in enumerate(evaluations.sets):
        at = ("evaluations", "sets", number)
        for place, scorer in enumerate(evaluation.scorers):
            if scorer.kind == "language" and scorer.language not in (None, *LANGUAGES):
                reason = f"is {scorer.language}, which is not recognised; there are {', '.join(LANGUAGES)}."
                yield _problem((*at, "scorers", place, "language"), reason)
        for place, bound in enumerate(evaluation.bounds):
            needed = least_rows(bound.least_margin, evaluations.beta)
            if needed > evaluation.max_rows and bound.undecided == "stop":
                yield _problem(
                    (*at, "bounds", place),
                    f"needs {needed:,} right answers at least, and max_rows is {evaluation.max_rows:,}: widen the "
                    "limit, raise max_rows, or set undecided to continue.",
                )


def list_schedule_problems(evaluations: Evaluations, schedule: Schedule, max_drop: float) -> Iterator[PolicyProblem]:
    """Yield the problems of a schedule that must show a fall of scores by more than `max_drop`."""
    share = schedule.rows // len(evaluations.sets)
    needed = least_rows_of_loss(max_drop, share_alpha_of_check(evaluations, schedule))
    if needed > share:
        yield _problem(
            ("evaluations", "schedule", "rows"),
            f"is {schedule.rows}, {share} for each evaluation, and a total loss shows on {needed:,.0f}: raise rows, "
            "check more rarely, or lower the threshold.",
        )


def _problem(field: tuple[str | int, ...], reason: str) -> PolicyProblem:
    return PolicyProblem(field, f"{'.'.join(map(str, field))} {reason}")


REQUESTS_NEEDED: dict[Statistic, int] = {"mean": 1, "p50": 1, "p95": 20, "p99": 100}
"""Requests to a side that its statistic needs."""
PAIRS_NEEDED = 20
"""Minimum requests to each side that a ratio needs."""


def find_unanswerable(policy: ReleasePolicy) -> str | None:
    """Return why a gate would always be inconclusive with the policy's load; None if none would."""
    load = policy.load
    for gate in policy.gates:
        needed = requests_needed(gate)
        if needed > load.requests:
            return (
                f"load.requests is {load.requests}, but the gate {gate.name} needs {needed}; set it to {needed} or "
                "more, or bound another statistic."
            )
        if gate.metric == "itl_ms" and load.output_tokens < 2:
            return (
                f"load.output_tokens is {load.output_tokens}, but the gate {gate.name} needs 2, because it is the time "
                "between tokens; set it to 2 or more, or bound another metric."
            )
    return None


def requests_needed(gate: MetricGate) -> int:
    """Return the minimum requests to each side for a verdict of a gate."""
    if gate.metric == "error_ratio":
        return 1
    own = 1 if gate.metric == "tps_system" else REQUESTS_NEEDED[gate.statistic]
    return own if gate.max_ratio is None and gate.min_ratio is None else max(own, PAIRS_NEEDED)


def differing(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    """Return the fields that differ between a policy and the stored one."""
    return [name for name in ReleasePolicy.model_fields if getattr(policy, name) != getattr(stored, name)]


def describe_differing(fields: Sequence[str]) -> str:
    """Return the reason to refuse a policy that differs from the stored one, with advice."""
    return f"It differs from the stored policy in {', '.join(fields)}: publish without a policy, or store this one."


def list_problems(policy: ReleasePolicy) -> list[PolicyProblem]:
    """Return the problems of a valid policy; only the first value beyond a limit if there is one."""
    endless = find_endless(policy)
    return [endless] if endless is not None else list(_problems(policy))


def _problems(policy: ReleasePolicy) -> Iterator[PolicyProblem]:
    if policy.rehearsal == "not_required" and policy.automatic:
        names = ", ".join(trigger.name for trigger in policy.automatic)
        reason = f"rehearsal: not_required is only for manual triggers, but these are automatic: {names}."
        yield PolicyProblem(("rehearsal",), reason)
    if policy.automatic and not policy.rehearsed:
        names = ", ".join(trigger.name for trigger in policy.automatic)
        reason = (
            f"triggers has no automatic one that a fault can rehearse beside {names}: add one, such as error_ratio."
        )
        yield PolicyProblem(("triggers",), reason)
    yield from _of_evaluations(policy)
    unanswerable = find_unanswerable(policy)
    if unanswerable is not None:
        yield PolicyProblem(("load",), unanswerable)
    for number, gate in enumerate(policy.gates):
        impassable = _never_passes(gate)
        if impassable is not None:
            yield PolicyProblem(("gates", number), f"gates.{number}: {gate.name}: {impassable}")
    for number, trigger in enumerate(policy.triggers):
        for field, reason in _of_trigger(trigger):
            at = ("triggers", number, field)
            yield PolicyProblem(at, f"triggers.{number}.{field} {reason}")


def _of_evaluations(policy: ReleasePolicy) -> Iterator[PolicyProblem]:
    evaluations = policy.evaluations
    yield from list_evaluation_problems(evaluations)
    drops = [trigger for trigger in policy.triggers if trigger.metric == "evaluation_drop"]
    if len(drops) > 1:
        names = ", ".join(trigger.name for trigger in drops)
        yield PolicyProblem(("triggers",), f"triggers has {names} for evaluation_drop, and one is watched: keep one.")
    for drop in drops[:1]:
        if evaluations.schedule is None or not evaluations.sets:
            seen = f"evaluations has no sets or no schedule, and {drop.name} is about scores of a schedule"
            yield PolicyProblem(("evaluations",), f"{seen}: declare both.")
        else:
            yield from list_schedule_problems(evaluations, evaluations.schedule, drop.threshold)


def _never_passes(gate: MetricGate) -> str | None:
    """Return why no figure can be within the bounds of a gate; None if one can."""
    for name in ("value", "ratio"):
        low, high = getattr(gate, f"min_{name}"), getattr(gate, f"max_{name}")
        if low is not None and high is not None and low > high:
            return f"min_{name} is {low:g}, above max_{name}, {high:g}: no figure is both; correct one of them."
        if high is not None and (high < 0 or (high == 0 and gate.metric != "error_ratio")):
            return f"max_{name} is {high:g}, which no figure is within: raise it."
    if gate.metric == "error_ratio" and gate.min_value is not None and gate.min_value > 1:
        return f"min_value is {gate.min_value:g}, and a share of requests is at most 1: lower it."
    return None


def _of_trigger(trigger: Trigger) -> Iterator[tuple[str, str]]:
    """Yield field and problem of each invalid field of a trigger."""
    if trigger.rule.limits in ("bad_share", "distance") and trigger.threshold >= 1.0:
        meant = f" ({trigger.threshold:g} % is {trigger.threshold / 100:g})" if trigger.threshold < 100.0 else ""
        seen = f"is {trigger.threshold:g}, and {trigger.metric} is at most 1, so that nothing would be watched"
        yield "threshold", f"{seen}: set it below 1{meant}."
    if trigger.action == "manual":
        return
    if not trigger.rule.fault and trigger.metric != "evaluation_drop":
        yield "action", f"is automatic, and no fault can rehearse {trigger.metric}: set it to manual."
    if trigger.metric in SLO_METRICS and trigger.threshold > LONGEST_REHEARSED_MS:
        seen = f"is {trigger.threshold:g} ms, and a rehearsal can exceed {LONGEST_REHEARSED_MS:,.0f} ms at most"
        yield "threshold", f"{seen}: lower it, or set action to manual."
