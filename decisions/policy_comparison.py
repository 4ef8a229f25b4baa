"""Comparison of release policies: an event's policy may only tighten the stored one."""

from contracts.policy import Canary, LoadProfile, MetricGate, QualityGate, ReleasePolicy

_UPPER = ("max_value", "max_ratio")
_LOWER = ("min_value", "min_ratio")


def weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    """Name everything in which a policy asks for less than the stored one; empty when it only tightens."""
    found = _quality_weaknesses(policy, stored)
    found += _gate_weaknesses(policy, stored)
    found += _trigger_weaknesses(policy, stored)
    if stored.promotion.mode == "manual" and policy.promotion.mode == "automatic":
        found.append("promotion.mode is automatic where the stored policy says manual")
    if stored.rehearsal == "required" and policy.rehearsal == "not_required":
        found.append("rehearsal is not_required where the stored policy says required")
    if policy.rehearsal_valid_s > stored.rehearsal_valid_s:
        found.append(f"rehearsal_valid_s is above the stored {stored.rehearsal_valid_s:g}")
    if stored.no_previous == "base" and policy.no_previous == "hold":
        found.append("no_previous is hold where the stored policy says base")
    return found + _canary_weaknesses(policy.canary, stored.canary) + _load_weaknesses(policy.load, stored.load)


def _canary_weaknesses(mine: Canary, theirs: Canary) -> list[str]:
    found = []
    if len(mine.steps) < len(theirs.steps) or any(a > b for a, b in zip(mine.steps, theirs.steps, strict=False)):
        found.append(f"canary.steps {list(mine.steps)} are fewer or larger than the stored {list(theirs.steps)}")
    if theirs.steps and mine.min_requests < theirs.min_requests:
        found.append(f"canary.min_requests is {mine.min_requests}, below the stored {theirs.min_requests}")
    if theirs.on_deadline == "abort" and mine.on_deadline == "promote":
        found.append("canary.on_deadline is promote where the stored policy says abort")
    if theirs.steps and mine.on_deadline == theirs.on_deadline == "promote" and mine.deadline_s < theirs.deadline_s:
        found.append(
            f"canary.deadline_s promotes after {mine.deadline_s:g} s, before the stored {theirs.deadline_s:g} s"
        )
    return found


def _load_weaknesses(mine: LoadProfile, theirs: LoadProfile) -> list[str]:
    """A lighter load passes gates that the stored load might not."""
    fields = ("requests", "rate_rps", "output_tokens")
    lighter = [field for field in fields if getattr(mine, field) < getattr(theirs, field)]
    return [f"load.{field} is {getattr(mine, field)}, below the stored {getattr(theirs, field)}" for field in lighter]


def _upper_is_weaker(mine: float | None, theirs: float | None) -> bool:
    return theirs is not None and (mine is None or mine > theirs)


def _lower_is_weaker(mine: float | None, theirs: float | None) -> bool:
    return theirs is not None and (mine is None or mine < theirs)


def _quality_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    found = []
    for variant, theirs in stored.quality.items():
        mine = policy.quality.get(variant, QualityGate())
        fields = ("max_perplexity_ratio", "max_mean_kl")
        weaker = [field for field in fields if _upper_is_weaker(getattr(mine, field), getattr(theirs, field))]
        found += [f"quality.{variant}.{field} is weaker than the stored {getattr(theirs, field)}" for field in weaker]
    return found


def _gate_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    found = []
    for name in dict.fromkeys(gate.name for gate in stored.gates):
        mine, theirs = _tightest(policy.gates, name), _tightest(stored.gates, name)
        if all(bound is None for bound in mine.values()):
            found.append(f"gate {name} of the stored policy is missing")
            continue
        upper = [field for field in _UPPER if _upper_is_weaker(mine[field], theirs[field])]
        lower = [field for field in _LOWER if _lower_is_weaker(mine[field], theirs[field])]
        found += [f"gate {name}: {field} is weaker than the stored {theirs[field]}" for field in upper + lower]
    return found


def _tightest(gates: tuple[MetricGate, ...], name: str) -> dict[str, float | None]:
    """Return each bound that a policy's gates of one name set together: every one of them must pass."""
    bounds: dict[str, float | None] = {}
    for fields, tighter in ((_UPPER, min), (_LOWER, max)):
        for field in fields:
            values = [getattr(gate, field) for gate in gates if gate.name == name and getattr(gate, field) is not None]
            bounds[field] = tighter(values) if values else None
    return bounds


def _trigger_weaknesses(policy: ReleasePolicy, stored: ReleasePolicy) -> list[str]:
    mine_by_name = {trigger.name: trigger for trigger in policy.triggers}
    found = []
    for theirs in stored.triggers:
        mine = mine_by_name.get(theirs.name)
        if mine is None or mine.metric != theirs.metric:
            found.append(f"trigger {theirs.name} ({theirs.metric}) of the stored policy is missing")
            continue
        if mine.threshold > theirs.threshold or mine.allowed_ratio > theirs.allowed_ratio:
            found.append(f"trigger {theirs.name}: threshold or allowed_ratio is above the stored one")
        if theirs.action == "automatic" and mine.action == "manual":
            found.append(f"trigger {theirs.name}: action is manual where the stored policy says automatic")
        if mine.min_requests > theirs.min_requests or mine.alpha < theirs.alpha:
            found.append(f"trigger {theirs.name}: needs more evidence than the stored one")
        if mine.window_s != theirs.window_s:  # longer is slower to notice, shorter may never hold enough evidence
            found.append(f"trigger {theirs.name}: window_s is not the stored {theirs.window_s:g}")
        if mine.cooldown_s > theirs.cooldown_s:
            found.append(f"trigger {theirs.name}: cooldown_s is above the stored {theirs.cooldown_s:g}")
    return found
