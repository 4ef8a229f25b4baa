"""`slipway publish` checks the evaluation set by the policy before it uploads anything."""

import json

import pytest

from clients.cli.errors import CommandError
from clients.cli.sources.evaluation_checks import check_evaluation
from contracts.evaluations import Evaluations
from contracts.vocabulary import digest_of
from testbed.factories import policy

ROWS = [{"prompt": f"row {number}", "expected": "right"} for number in range(20)]


def with_set(**about):
    own = {"name": "mine", "scorers": [{"kind": "equals"}], "bounds": [{"max_drop": 0.2}], **about}
    return policy(evaluations=Evaluations.model_validate({"sets": [own]}))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def test_a_set_that_fits_is_taken_and_a_policy_without_a_set_asks_none(file):
    check_evaluation(with_set(), file)
    check_evaluation(with_set(rows_digest=digest_of(file.read_bytes())), file)
    check_evaluation(policy(evaluations=Evaluations.model_validate({"sets": [{"name": "a", "rows": "default"}]})), None)
    check_evaluation(policy(), None)
    check_evaluation(None, file)


@pytest.mark.parametrize(
    ("about", "lines", "named"),
    [
        ({}, [{"text": "plain"}], "line 1: it has 'text'"),
        ({}, [*ROWS, {"prompt": "a", "expected": 3}], "line 21: the scorer equals"),
        ({}, ROWS[:10], "needs 14 rows at least, and there are 10"),
        ({"bounds": [{"slice": "late", "max_drop": 0.2}]}, ROWS, "'late'"),
        ({}, [{**ROWS[0], "expect": {"equal": "b"}}], "expect names 'equal'"),
        ({"rows_digest": "sha256:" + "0" * 64}, ROWS, "asks the set sha256:000"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(file, about, lines, named):
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(CommandError) as caught:
        check_evaluation(with_set(**about), file)
    assert named in str(caught.value)


def test_a_set_that_is_missing_is_refused(tmp_path):
    with pytest.raises(CommandError, match="--evaluation"):
        check_evaluation(with_set(), None)
    with pytest.raises(CommandError, match="cannot be read"):
        check_evaluation(with_set(), tmp_path / "missing.jsonl")
