"""Checks of a checkpoint's evaluation set against its policy, before an upload."""

from pathlib import Path

from clients.cli.errors import CommandError
from contracts.policy import ReleasePolicy
from contracts.vocabulary import digest_of


def check_evaluation(policy: ReleasePolicy | None, file: Path | None) -> None:
    """Check an evaluation set for the evaluations of a policy that use it, as the evaluator does later.

    Raises:
        CommandError: The set is missing, cannot be read or scored, or has too few rows for a limit.
    """
    asked = [each for each in policy.evaluations.sets if each.rows == "event"] if policy is not None else []
    if policy is None or not asked:
        return
    if file is None:
        raise CommandError(
            f"the evaluation {asked[0].name} of the policy asks a set of rows: give it with --evaluation"
        )
    from decisions.evaluations.fitting import check_set
    from decisions.evaluations.rows import read_rows

    try:
        data = file.read_bytes()
        rows = read_rows(data)
        for evaluation in asked:
            check_set(policy.evaluations, evaluation, rows)
    except OSError as error:
        raise CommandError(f"the evaluation set {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"the evaluation set {file} does not fit the policy: {error}") from error
    digest = digest_of(data)
    pinned = next((each.rows_digest for each in asked if each.rows_digest not in (None, digest)), None)
    if pinned is not None:
        raise CommandError(f"the evaluation set {file} is {digest}; the policy asks the set {pinned}: give that one")
