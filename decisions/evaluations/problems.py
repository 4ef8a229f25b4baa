"""What makes the evaluations of a policy impossible beyond their schema: limits that no set of rows can show."""

from collections.abc import Iterator
from typing import NamedTuple

from contracts.evaluations import Evaluations
from decisions.evaluations.limit_tests import least_rows
from decisions.scorers.languages import LANGUAGES


class EvaluationProblem(NamedTuple):
    """What is wrong, and where in the policy; the reason begins with the place."""

    field: tuple[str | int, ...]
    reason: str


def list_evaluation_problems(evaluations: Evaluations) -> Iterator[EvaluationProblem]:
    """Yield every problem of the evaluations of a policy."""
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


def _problem(field: tuple[str | int, ...], reason: str) -> EvaluationProblem:
    return EvaluationProblem(field, f"{'.'.join(map(str, field))} {reason}")
