"""The rows that changed most are shown with their questions and reasons, as far as they can be read."""

from clients.cli.releases.evaluation_tables import Rows, describe_changes
from contracts.evaluations.results import EvaluatedRow, EvaluationSummary

DIGEST = "sha256:" + "a" * 64
RESULT = EvaluationSummary(
    name="mine", rows_digest=DIGEST, asked=2, available=2, worse=(3,), better=(5,), verdict="fail"
)


def test_a_row_is_shown_with_its_question_and_the_reason_of_its_score():
    row = EvaluatedRow(
        number=3, candidate={"equals": 0.0}, active={"equals": 1.0}, reasons={"equals": "it is not the expected text"}
    )
    rows = Rows({("mine", 3): row}, {(DIGEST, 3): "Where is\nmy parcel?"})
    assert list(describe_changes(RESULT, rows)) == [
        'worse: line 3 of the set, "Where is my parcel?", equals: it is not the expected text',
        "better: line 5 of the set",
    ]


def test_without_them_the_lines_are_named():
    assert list(describe_changes(RESULT, Rows())) == ["worse: line 3 of the set", "better: line 5 of the set"]
