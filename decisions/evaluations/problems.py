"""Problems of a policy's evaluations beyond their schema: limits that no set of rows can show."""

from collections.abc import Iterator

from contracts.evaluations import Evaluations, Schedule
from decisions.evaluations.limit_tests import least_rows, least_rows_of_loss
from decisions.evaluations.verdicts import share_alpha_of_check
from decisions.policies.limits import PolicyProblem
from decisions.scorers.languages import LANGUAGES


def list_evaluation_problems(evaluations: Evaluations) -> Iterator[PolicyProblem]:
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


def list_schedule_problems(evaluations: Evaluations, schedule: Schedule, max_drop: float) -> Iterator[PolicyProblem]:
    """Yield every problem of a schedule that is to show a fall of more than `max_drop` of some evaluations."""
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
