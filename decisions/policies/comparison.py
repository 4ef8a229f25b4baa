"""Comparison of release policies: an event's policy may only tighten the stored one."""

import math

from contracts.policy import Canary, LoadProfile, MetricGate, QualityGate, ReleasePolicy, Shadow, Trigger
from decisions.evaluations.comparison import find_weaker_evaluations

_UPPER = ("max_value", "max_ratio")
_LOWER = ("min_value", "min_ratio")


def weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    """Return everything in which a policy asks for less than the stored one; empty if it only tightens."""
    weaker = _quality_weaknesses(policy, stored)
    weaker += _gate_weaknesses(policy, stored)
    weaker += _trigger_weaknesses(policy, stored) + _after_move_weaknesses(policy, stored)
    if stored.promotion.mode == "manual" and policy.promotion.mode == "automatic":
        weaker.append("promotion.mode is automatic where the stored policy says manual")
    if policy.approvals.count < stored.approvals.count:
        weaker.append(f"approvals.count is {policy.approvals.count}, below the stored {stored.approvals.count}")
    if stored.approvals.not_by_publisher and not policy.approvals.not_by_publisher:
        weaker.append("approvals.not_by_publisher is false where the stored policy says true")
    if stored.rehearsal == "required" and policy.rehearsal == "not_required":
        weaker.append("rehearsal is not_required where the stored policy says required")
    for name in ("rehearsal_valid_s", "judgement_s", "false_alarm_every"):  # an older proof, a later alert
        proposed, most = getattr(policy, name), getattr(stored, name)
        if proposed > most:
            weaker.append(f"{name} is {proposed:g}, above the stored {most:g}")
    if policy.pairs.share_ratio < stored.pairs.share_ratio:
        share, least = policy.pairs.share_ratio, stored.pairs.share_ratio
        weaker.append(f"pairs.share_ratio is {share:g}, below the stored {least:g}")
    if policy.copies > stored.copies:  # they take the memory of the fleet, which is not the publisher's
        weaker.append(f"copies is {policy.copies}, above the stored {stored.copies}")
    weaker += find_weaker_evaluations(policy.evaluations, stored.evaluations)
    if stored.no_previous == "base" and policy.no_previous == "hold":
        weaker.append("no_previous is hold where the stored policy says base")
    weaker += _attester_weaknesses(policy, stored) + _shadow_weaknesses(policy.shadow, stored.shadow)
    return weaker + _canary_weaknesses(policy.canary, stored.canary) + _load_weaknesses(policy.load, stored.load)


def _attester_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    """An attester that the stored policy does not name is another one, even if its key belongs to a named service."""
    weaker = []
    for step, allowed in stored.attesters.items():
        proposed = policy.attesters.get(step)
        if proposed is None:
            weaker.append(f"attesters.{step} of the stored policy is missing")
        elif not set(proposed) <= set(allowed):
            others = ", ".join(sorted(set(proposed) - set(allowed)))
            weaker.append(f"attesters.{step} has {others}, which the stored policy does not have")
    return weaker


def _canary_weaknesses(proposed: Canary, stored: Canary) -> list[str]:
    weaker = []
    if len(proposed.steps) < len(stored.steps) or any(
        a > b for a, b in zip(proposed.steps, stored.steps, strict=False)
    ):
        weaker.append(f"canary.steps {list(proposed.steps)} are fewer or larger than the stored {list(stored.steps)}")
    if stored.steps and proposed.only_for != stored.only_for:
        weaker.append(f"canary.only_for is {list(proposed.only_for)}, and the stored one {list(stored.only_for)}")
    if stored.steps and proposed.min_requests < stored.min_requests:
        weaker.append(f"canary.min_requests is {proposed.min_requests}, below the stored {stored.min_requests}")
    if stored.steps and proposed.beta > stored.beta:
        weaker.append(f"canary.beta is {proposed.beta:g}, above the stored {stored.beta:g}")
    if stored.on_deadline == "ask" and proposed.on_deadline == "promote":
        weaker.append("canary.on_deadline is promote where the stored policy says ask")
    if (
        stored.steps
        and proposed.on_deadline == stored.on_deadline == "promote"
        and proposed.deadline_s < stored.deadline_s
    ):
        weaker.append(
            f"canary.deadline_s promotes after {proposed.deadline_s:g} s, before the stored {stored.deadline_s:g} s"
        )
    return weaker


def _after_move_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    returns = (policy.after_move, stored.after_move) == ("canary", "stay")
    return ["after_move is canary where the stored policy says stay"] if returns else []


def _shadow_weaknesses(proposed: Shadow | None, stored: Shadow | None) -> list[str]:
    if stored is None:
        return []
    if proposed is None:
        return ["shadow of the stored policy is missing"]
    fields = ("share_ratio", "duration_s", "min_requests")
    weaker = [
        f"shadow.{field} is {getattr(proposed, field):g}, below the stored {getattr(stored, field):g}"
        for field in fields
        if getattr(proposed, field) < getattr(stored, field)
    ]
    if stored.on_deadline == "ask" and proposed.on_deadline == "continue":
        weaker.append("shadow.on_deadline is continue where the stored policy says ask")
    if proposed.on_deadline == stored.on_deadline == "continue" and proposed.deadline_s < stored.deadline_s:
        weaker.append(
            f"shadow.deadline_s goes on after {proposed.deadline_s:g} s, before the stored {stored.deadline_s:g} s"
        )
    return weaker


def _load_weaknesses(proposed: LoadProfile, stored: LoadProfile) -> list[str]:
    """A lighter load passes gates that the stored load might not."""
    fields = ("requests", "rate_rps", "output_tokens")
    lighter = [field for field in fields if getattr(proposed, field) < getattr(stored, field)]
    return [
        f"load.{field} is {getattr(proposed, field)}, below the stored {getattr(stored, field)}" for field in lighter
    ]


def _upper_is_weaker(proposed: float | None, stored: float | None) -> bool:
    return stored is not None and (proposed is None or proposed > stored)


def _lower_is_weaker(proposed: float | None, stored: float | None) -> bool:
    return stored is not None and (proposed is None or proposed < stored)


def _quality_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    lines = []
    for variant, gate in stored.quality.items():
        proposed = policy.quality.get(variant, QualityGate())
        fields = ("max_perplexity_ratio", "max_mean_kl")
        weaker = [field for field in fields if _upper_is_weaker(getattr(proposed, field), getattr(gate, field))]
        lines += [f"quality.{variant}.{field} is weaker than the stored {getattr(gate, field)}" for field in weaker]
    return lines


def _gate_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    weaker = []
    for name in dict.fromkeys(gate.name for gate in stored.gates):
        proposed, required = _tightest(policy.gates, name), _tightest(stored.gates, name)
        if all(bound is None for bound in proposed.values()):
            weaker.append(f"gate {name} of the stored policy is missing")
            continue
        upper = [field for field in _UPPER if _upper_is_weaker(proposed[field], required[field])]
        lower = [field for field in _LOWER if _lower_is_weaker(proposed[field], required[field])]
        weaker += [f"gate {name}: {field} is weaker than the stored {required[field]}" for field in upper + lower]
    return weaker


def _tightest(gates: tuple[MetricGate, ...], name: str) -> dict[str, float | None]:
    """Return each bound that a policy's gates of one name set together: every one of them must pass."""
    bounds: dict[str, float | None] = {}
    for fields, tighter in ((_UPPER, min), (_LOWER, max)):
        for field in fields:
            values = [getattr(gate, field) for gate in gates if gate.name == name and getattr(gate, field) is not None]
            bounds[field] = tighter(values) if values else None
    return bounds


def _bounds_another(proposed: Trigger, stored: Trigger) -> bool:
    """Return whether a trigger of the same name bounds another metric, or the same one on its other side."""
    return (proposed.metric, proposed.is_lower_bound) != (stored.metric, stored.is_lower_bound)


def _threshold_weaknesses(proposed: Trigger, stored: Trigger) -> list[str]:
    if stored.is_lower_bound and proposed.threshold < stored.threshold:
        return [f"trigger {stored.name}: threshold is below the stored {stored.threshold:g}"]
    if not stored.is_lower_bound and proposed.threshold > stored.threshold:
        return [f"trigger {stored.name}: threshold is above the stored {stored.threshold:g}"]
    if proposed.allowed_ratio > stored.allowed_ratio:
        return [f"trigger {stored.name}: allowed_ratio is above the stored {stored.allowed_ratio:g}"]
    return []


def _trigger_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    proposed_by_name = {trigger.name: trigger for trigger in policy.triggers}
    weaker = []
    for trigger in stored.triggers:
        proposed = proposed_by_name.get(trigger.name)
        if proposed is None or _bounds_another(proposed, trigger):
            weaker.append(f"trigger {trigger.name} ({trigger.metric}) of the stored policy is missing")
            continue
        weaker += _threshold_weaknesses(proposed, trigger)
        if trigger.own_factor is not None and (proposed.own_factor or math.inf) > trigger.own_factor:
            weaker.append(f"trigger {trigger.name}: own_factor is not the stored {trigger.own_factor:g}, nor below it")
        if trigger.action == "automatic" and proposed.action == "manual":
            weaker.append(f"trigger {trigger.name}: action is manual where the stored policy says automatic")
        if proposed.min_requests > trigger.min_requests or proposed.alpha < trigger.alpha:
            weaker.append(f"trigger {trigger.name}: needs more evidence than the stored one")
        if proposed.window_s != trigger.window_s:  # longer is slower to notice, shorter may never hold enough evidence
            weaker.append(f"trigger {trigger.name}: window_s is not the stored {trigger.window_s:g}")
    return weaker
