"""Comparison of the evaluations of two policies: an event's policy may add some, and tighten the stored ones."""

from collections.abc import Iterator

from contracts.evaluations import Bound, Evaluation, Evaluations
from decisions.evaluations.verdicts import KINDS


def find_weaker_evaluations(proposed: Evaluations, stored: Evaluations) -> list[str]:
    """Return everything in which evaluations ask for less than the stored ones; empty if they only tighten."""
    return [*_stated_weaknesses(proposed, stored), *(_weaknesses(proposed, stored) if stored.sets else ())]


def _stated_weaknesses(proposed: Evaluations, stored: Evaluations) -> Iterator[str]:
    bounds = {(bound.name, bound.metric, bound.higher_is_better): bound for bound in proposed.stated}
    for required in stored.stated:
        bound = bounds.get((required.name, required.metric, required.higher_is_better))
        sign = 1.0 if required.higher_is_better else -1.0
        if (
            bound is None
            or (required.limit is not None and (bound.limit is None or sign * bound.limit < sign * required.limit))
            or (required.max_drop is not None and (bound.max_drop is None or bound.max_drop > required.max_drop))
        ):
            yield f"the bound of the stated {required.name} {required.metric} is weaker than the stored one, or missing"


def _weaknesses(proposed: Evaluations, stored: Evaluations) -> Iterator[str]:
    asked, least = proposed.schedule, stored.schedule
    if least is not None and (asked is None or asked.every_hours > least.every_hours or asked.rows < least.rows):
        yield "evaluations.schedule is rarer than the stored one, of fewer rows, or missing"
    if proposed.beta > stored.beta:
        yield f"evaluations.beta is {proposed.beta:g}, above the stored {stored.beta:g}"
    shares = [declared.alpha / max(_count_limits(declared), 1) for declared in (proposed, stored)]
    if shares[0] < shares[1] - 1e-12:
        yield (
            f"evaluations.alpha is {proposed.alpha:g} over {_count_limits(proposed)} limits, for each less than the "
            f"stored {stored.alpha:g} over {_count_limits(stored)}; raise it with the limits"
        )
    by_name = {evaluation.name: evaluation for evaluation in proposed.sets}
    for required in stored.sets:
        evaluation = by_name.get(required.name)
        if evaluation is None:
            yield f"evaluation {required.name} of the stored policy is missing"
        else:
            yield from _of_one(evaluation, required)


def _of_one(proposed: Evaluation, stored: Evaluation) -> Iterator[str]:
    """Yield what is weaker in one evaluation: how it is asked and scored must be kept, bounds may be tighter."""
    fields = stored.asked if stored.has_anchor else ("rows", "max_tokens")  # what else it asks has another anchor
    changed = [field for field in fields if proposed.asked[field] != stored.asked[field]]
    changed += ["rows_digest"] if stored.rows_digest not in (None, proposed.rows_digest) else []
    if not stored.has_anchor:
        changed += ["max_rows"] if proposed.max_rows < stored.max_rows else []
        kept = {scorer.label: scorer for scorer in proposed.scorers}
        changed += [f"scorer {scorer.label}" for scorer in stored.scorers if kept.get(scorer.label) != scorer]
    if changed:
        yield f"evaluation {stored.name}: {', '.join(changed)} is not as in the stored policy"
        return
    bounds = {(proposed.label_of(bound), bound.slice): bound for bound in proposed.bounds}
    for required in stored.bounds:
        label = stored.label_of(required)
        bound = bounds.get((label, required.slice))
        if bound is None or _is_weaker(bound, required):
            of = f" of slice {required.slice}" if required.slice else ""
            yield f"evaluation {stored.name}: the bound of {label}{of} is weaker than the stored one, or missing"


def _count_limits(declared: Evaluations) -> int:
    """Return between how many limits alpha is split; those of each slice count once, as the rows are not known here."""
    bounds = [bound for evaluation in declared.sets for bound in evaluation.bounds]
    return sum(getattr(bound, kind) is not None for bound in bounds for kind in KINDS)


def _is_weaker(proposed: Bound, stored: Bound) -> bool:
    for kind in ("max_drop", "max_drop_from_anchor"):
        most, limit = getattr(stored, kind), getattr(proposed, kind)
        if most is not None and (limit is None or limit > most):
            return True
    if stored.min_value is not None and (proposed.min_value is None or proposed.min_value < stored.min_value):
        return True
    return (proposed.undecided, stored.undecided) == ("continue", "stop")
