"""What a release policy means, in sentences: what happens to a candidate in order, and what rolls it back. Pure."""

from collections.abc import Iterator

from contracts.evaluations import EACH_SLICE, Bound, Evaluation, StatedBound
from contracts.policy import MetricGate, ReleasePolicy, Trigger
from decisions.evaluations.limit_tests import usual_rows
from decisions.evidence.triggers import can_judge, find_trigger, limit_of
from decisions.releases.plan import PlannedStep, plan_release

_OBJECTIVES = {
    "quality": "the one that loses least quality",
    "latency": "the fastest one",
    "cost": "the smallest one, or, if the price of a machine is set, the one with the most tokens per second,",
}
_PERIODS = ((86_400.0, "days", "day"), (3_600.0, "h", "h"), (60.0, "min", "min"))


def explain_policy(policy: ReleasePolicy, *, first: bool = False) -> dict[str, list[str]]:
    """Return sentences by heading.

    Args:
        policy: The policy.
        first: Whether nothing of the model serves yet.
    """
    return {
        "A candidate": list(_before_traffic(policy, first=first)),
        "Traffic": list(_traffic(policy, first=first)),
        "Rollback": list(_rollback(policy)),
    }


def _before_traffic(policy: ReleasePolicy, *, first: bool) -> Iterator[str]:
    for figure in policy.evaluations.stated:
        yield f"The publisher's {figure.name} {figure.metric} must be {_worst(figure)}, or it is rejected at once."
    d = policy.deadlines
    yield f"It is merged within {period(d.merge_s)}; its variants are quantised within {period(d.quantise_s)}."
    for variant, gate in policy.quality.items():
        bounds = []
        if gate.max_perplexity_ratio is not None:
            bounds.append(f"its perplexity is above {gate.max_perplexity_ratio:g} times that of the merged model")
        if gate.max_mean_kl is not None:
            bounds.append(f"its mean KL divergence from the merged model is above {gate.max_mean_kl:g} nats")
        if bounds:
            yield f"{variant} is left out if {' or '.join(bounds)}."
    load = policy.load
    beside = "the base model" if first else "what serves now"
    yield f"Each variant gets {load.requests} requests at {load.rate_rps:g}/s beside {beside} and must pass every gate:"
    yield from (f"  {_gate(gate)}" for gate in policy.gates)
    if not policy.gates:
        yield "  no gate is declared, so only failures of the benchmark itself reject a variant."
    yield f"Of the variants that pass, {_OBJECTIVES[policy.objective]} is released; if none passes, it is rejected."
    yield from _evaluations(policy, first=first)
    plan = [planned.step for planned in plan_release(policy, first=first)]
    if "rehearsal" in plan:
        names = ", ".join(trigger.name for trigger in policy.rehearsed)
        yield f"In staging, a fault makes each automatic trigger ({names}) roll back; otherwise it is rejected."
    if "approval" in plan:
        yield _approval(policy)


def _worst(figure: StatedBound) -> str:
    better = "more" if figure.higher_is_better else "less"
    parts = (
        (f"{{:g}} or {better}", figure.limit),
        ("at most {:g} worse than that of the active version", figure.max_drop),
    )
    return " and ".join(text.format(limit) for text, limit in parts if limit is not None)


def _evaluations(policy: ReleasePolicy, *, first: bool) -> Iterator[str]:
    declared = policy.evaluations
    beside = "the base model" if first else "the active version"
    for evaluation in declared.sets:
        of = "Slipway's set" if evaluation.rows == "default" else "the checkpoint's evaluation set"
        most = f"{evaluation.max_rows:,} rows of {of}"
        bounds = [each for bound in evaluation.bounds if (each := _of_first(bound) if first else bound)]
        if not bounds:
            yield f"Evaluation {evaluation.name}: it is asked {most} beside {beside}; the scores are only reported."
            continue
        yield f"Evaluation {evaluation.name}: it is asked up to {most} beside {beside}, and rejected unless:"
        if evaluation.has_anchor:
            anchor = "the first version that was promoted with this evaluation; what has none is not compared with it"
            yield f"  (every row is asked; the anchor is {'this version, without an earlier one' if first else anchor})"
        for bound in bounds:
            label, rows = evaluation.label_of(bound), "all rows" if bound.slice is None else f"slice {bound.slice}"
            rows = "each slice" if bound.slice == EACH_SLICE else rows
            limits = (
                ("is {:g} or more", bound.min_value),
                (f"is at most {{:g}} below that of {beside}", bound.max_drop),
                ("is at most {:g} below that of the anchor", bound.max_drop_from_anchor),
            )
            parts = " and ".join(text.format(limit) for text, limit in limits if limit is not None)
            late = _if_too_few(evaluation, bound, declared.beta)
            yield f"  the mean score of {label}, of {rows}, {parts}{late};"
    if declared.sets:
        yield (
            f"A candidate within every limit is proved worse with a probability of {declared.alpha:.3g} at most; one "
            f"beyond a limit passes with {declared.beta:.3g}, except where too few rows let it go on."
        )


def _of_first(bound: Bound) -> Bound | None:
    """Return a bound without its limit about an anchor, which a first version does not have; None if that is all."""
    rest = bound.min_value is not None or bound.max_drop is not None
    return bound.model_copy(update={"max_drop_from_anchor": None}) if rest else None


def _if_too_few(evaluation: Evaluation, bound: Bound, beta: float) -> str:
    """Return what happens if the rows do not suffice, and how many do where that rejects an equal candidate."""
    if bound.undecided == "continue":
        return " (too few rows: it goes on)"
    drops = [drop for drop in (bound.max_drop, bound.max_drop_from_anchor) if drop is not None]
    if not drops:
        return ""
    needed = usual_rows(min(drops), beta)
    short = f", more than max_rows, {evaluation.max_rows:,}" if needed > evaluation.max_rows else ""
    return f" (too few rows reject it; about {needed:,} usually suffice{short})"


def _approval(policy: ReleasePolicy) -> str:
    count = policy.approvals.count
    who = "one person" if count == 1 else f"{count} different people"
    but = ", none of whom published the checkpoint" if policy.approvals.not_by_publisher else ""
    return f"It waits for the approval of {who}{but}; without it the release expires after {_of_approval(policy)}."


def _of_approval(policy: ReleasePolicy) -> str:
    return period(policy.promotion.approval_deadline_s)


def _traffic(policy: ReleasePolicy, *, first: bool) -> Iterator[str]:
    if policy.shadow is not None and not first:
        shadow = policy.shadow
        late = "waits for a person" if shadow.on_deadline == "ask" else "goes on without a verdict"
        yield (
            f"Before any traffic, it is asked {shadow.share_ratio:.3g} of the requests again, unseen by callers, for "
            f"{period(shadow.duration_s)} and until {shadow.min_requests} are compared with what serves; if it is "
            f"worse, the release ends. Undecided after {period(shadow.deadline_s)}, it {late}."
        )
    shares = [step for step in plan_release(policy, first=first) if step.step == "canary" or step.share]
    if first:
        yield "It is the model's first release and takes all traffic at once: there is nothing to compare it with."
    elif shares == [PlannedStep("traffic", 1.0)]:
        yield "It takes all traffic at once: the policy has no canary."
    canary = policy.canary
    late = "takes the next share without a verdict" if canary.on_deadline == "promote" else "waits for a person"
    for step in shares:
        if step.step == "canary":
            is_for_some = canary.only_for and step.share == canary.steps[0]
            whose = f"traffic of {', '.join(canary.only_for)}" if is_for_some else "traffic"
            yield (
                f"It takes {step.share:.0%} of the {whose} for at least {canary.min_requests} requests, until the "
                f"bad ones are within every limit; undecided after {period(canary.deadline_s)}, it {late}."
            )
    if len(shares) > 1:
        yield "After that it takes all traffic, and the version before it stays loaded."
    waits = "waits until this release has ended" if policy.on_newer == "queue" else "ends this release"
    yield f"A newer version of the model {waits}."


def _rollback(policy: ReleasePolicy) -> Iterator[str]:
    for trigger in policy.triggers:
        yield _trigger(trigger)
    if policy.pairs.share_ratio and policy.canary.steps:
        yield (
            f"During a canary, {policy.pairs.share_ratio:.3g} of the requests are asked of both versions again, unseen "
            "by callers; what only one of the two fails counts."
        )
    schedule = policy.evaluations.schedule
    if schedule is not None and find_trigger(policy.triggers, "evaluation_drop") is not None:
        yield (
            f"While it serves, it and the version before are asked {schedule.rows} rows of their evaluations, or "
            f"as many as show a loss, every {period(3600 * schedule.every_hours)}, without callers; two checks in a "
            "row must show a fall."
        )
    if any(trigger.action == "automatic" for trigger in policy.triggers):
        to = "the base model" if policy.no_previous == "base" else "nothing: it stays in traffic"
        yield f"A rollback goes to the version before; from the first version it goes to {to}."
    judged = [trigger.name for trigger in policy.automatic if can_judge(trigger)]
    if judged:
        yield (
            f"A version that {', '.join(judged)} moved traffic from is asked what callers asked, unseen, until that "
            f"shows whether it was the cause; undecided after {period(policy.judgement_s)}, or moved by another "
            "trigger, a person decides."
        )
        by_itself = policy.after_move == "canary" and policy.canary.steps
        again = "it returns as a canary; moved again, it waits for a person" if by_itself else "a person returns it"
        yield f"If it was not the cause, {again}."


def _trigger(trigger: Trigger) -> str:
    own = f", or {trigger.own_factor:g} times as many as in its own first hour" if trigger.own_factor else ""
    when = f"when {_condition(trigger)}{own}"
    if trigger.metric != "evaluation_drop":
        when += f"; of a candidate, after at least {trigger.min_requests} requests"
    if trigger.action == "automatic":
        return f"{trigger.name}: rolls back by itself {when}."
    return f"{trigger.name}: raises an alert {when}; people decide."


def _condition(trigger: Trigger) -> str:
    limits, unit = trigger.rule.limits, trigger.rule.unit and f" {trigger.rule.unit}"
    if trigger.metric == "evaluation_drop":
        return f"a mean score of its evaluations is more than {trigger.threshold:g} below that of its release"
    if limits == "distance":
        return f"the requests of the window differ from earlier ones by more than {trigger.threshold:g}"
    if limits == "good_share":
        return f"fewer than {trigger.threshold:.4g} of the requests meet every latency limit"
    if limits == "figure":
        side = "below" if trigger.is_lower_bound else "above"
        limit = f"{side} {trigger.threshold:g}{unit}"
        return f"{trigger.metric} is {limit} for more than {limit_of(trigger):.3g} of the requests"
    return f"{trigger.metric} is above {trigger.threshold:g}"


def _gate(gate: MetricGate) -> str:
    bounds = (
        ("at most", gate.max_value, ""),
        ("at least", gate.min_value, ""),
        ("at most", gate.max_ratio, " times the baseline"),
        ("at least", gate.min_ratio, " times the baseline"),
    )
    parts = [f"{word} {bound:g}{unit}" for word, bound, unit in bounds if bound is not None]
    return f"{gate.name} is {' and '.join(parts)};"


def period(seconds: float) -> str:
    """Return a time as people write it: `90 s`, `15 min`, `4 h`, `7 days`."""
    for size, many, single in _PERIODS:
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {single if count == 1 else many}"
    return f"{seconds:g} s"
