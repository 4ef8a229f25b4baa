"""Problems of a policy beyond its schema: no release can pass, a step never ends, a trigger watches nothing.

Admission, `slipway policy` and `slipway apply` refuse a policy for the same problems. A policy that was stored or
frozen before a check existed stays readable.
"""

from collections.abc import Iterator, Sequence

from contracts.policy import MetricGate, ReleasePolicy, Trigger
from contracts.trigger_metrics import LONGEST_REHEARSED_MS, SLO_METRICS
from decisions.evaluations.problems import list_evaluation_problems, list_schedule_problems
from decisions.policies.gate_samples import find_unanswerable
from decisions.policies.limits import PolicyProblem, find_endless


def differing(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    """Return the fields in which a policy is another one than the stored one."""
    return [name for name in ReleasePolicy.model_fields if getattr(policy, name) != getattr(stored, name)]


def describe_differing(fields: Sequence[str]) -> str:
    """Return the reason to refuse a policy other than the stored one, with what to do."""
    return f"It differs from the stored policy in {', '.join(fields)}: publish without a policy, or store this one."


def list_problems(policy: ReleasePolicy) -> list[PolicyProblem]:
    """Return every problem of a policy that has a valid schema; of one that never ends, only that."""
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
    """Return why no figure is within the bounds of a gate; None if one can be."""
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
    """Yield the field and the problem of each field of a trigger."""
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
