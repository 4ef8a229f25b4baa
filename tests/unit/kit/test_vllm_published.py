"""What a run of vLLM's published tests counts as a regression; the run itself is `make compat`."""

import pytest

from tests.compat import vllm_source
from tests.compat.vllm_published import compare, read_expected

PASSED, FAILED, SKIPPED = ("passed", ""), ("failed", "404"), ("skipped", "no GPU")


@pytest.mark.parametrize(
    ("known", "outcome", "on_gateway", "on_vllm"),  # sentences about what is wrong, and about what is better
    [
        ("passes", PASSED, (0, 0), (0, 0)),
        ("passes", FAILED, (1, 0), (1, 0)),
        ("passes", SKIPPED, (1, 0), (1, 0)),
        ("fails: refused", FAILED, (0, 0), (1, 0)),
        ("fails: refused", PASSED, (0, 1), (0, 0)),
        ("fails: vLLM, too: the model", FAILED, (0, 0), (0, 0)),
        ("fails: vLLM, too: the model", PASSED, (0, 1), (0, 1)),
        ("varies: the model", FAILED, (0, 0), (0, 0)),
        ("varies: the model", PASSED, (0, 0), (0, 0)),
        (None, PASSED, (1, 0), (1, 0)),
    ],
)
def test_on_the_gateway_and_on_vllm_itself_only_what_is_expected_to_fail_may_fail(known, outcome, on_gateway, on_vllm):
    expected = {} if known is None else {"a.py::test": known}
    for plain, counts in ((False, on_gateway), (True, on_vllm)):
        result = compare({"a.py::test": outcome}, expected, plain=plain)
        assert (len(result.wrong), len(result.better)) == counts


def test_a_test_that_did_not_run_is_a_regression_unless_it_is_left_out():
    known = {"a.py::test": "passes", "a.py::other": "fails: refused", "a.py::third": "not run: a GPU"}
    wrong = compare({}, known).wrong
    assert [sentence.split()[0] for sentence in wrong] == ["a.py::test", "a.py::other"]


def test_the_expectations_are_of_the_pinned_version_and_each_has_its_reason():
    expected = read_expected()
    assert expected.vllm == vllm_source.pinned_version()
    assert expected.vllm in vllm_source.SHA256
    for name, known in expected.files.items():
        assert known == "run" or known.startswith("not run: "), name
    for test, known in expected.tests.items():
        assert expected.files[test.partition("::")[0]] == "run"
        assert known == "passes" or known.startswith(("fails: ", "varies: ", "not run: ")), test
        assert not known.endswith(": "), test
