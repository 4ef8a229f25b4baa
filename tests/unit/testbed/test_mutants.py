"""Mutants: what is changed, which tests run for it, and that the lists are those of the code as it is now."""

import os
import signal
from pathlib import Path

import pytest

from testbed.mutants.__main__ import Trial, plan_named, read_lists
from testbed.mutants.changes import Mutant, find_mutants
from testbed.mutants.choice import choose_tests, find_public


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a < b", {"a <= b"}),
        ("a not in b", {"a in b"}),
        ("a is None and b", {"a is not None and b", "a is None or b"}),
        ("not a", {"a"}),
        ("min(a, b)", {"max(a, b)"}),
        ("abs(a - b)", {"(a - b)", "abs(a + b)"}),
        ("a[0]", {"a[-1]", "a[1]"}),
        ("a[-1]", {"a[0]", "a[-2]"}),
        ("a * 0.5", {"a / 0.5", "a * 1.0"}),
        ("a if b else c", {"a if True else c", "a if False else c"}),
        ("[a for a in b if c]", {"[a for a in b if True]", "[a for a in b if False]"}),
        ("def f() -> A[1]:\n    return b", {"def f() -> A[1]:\n    return None"}),
        ('raise ValueError(f"{a < 1}", 2)', set()),
        ('é("ü" + a < b)', {'é("ü" + a <= b)'}),
        ("a = 1\n\nclass B:\n    c: int = 1\n", set()),
    ],
)
def test_each_mutant_has_one_change(source, changed):
    assert {mutant.mutated for mutant in find_mutants("a.py", source)} == changed


def test_the_lines_of_a_mutant_are_the_same_where_lines_are_added_above_it():
    first, second = "a(\n    b  and\n    c\n)\n", "d = e\n\n"
    (mutant,), (moved,) = find_mutants("a.py", first), find_mutants("a.py", second + first)
    assert (mutant.line, moved.line) == (2, 4)
    assert mutant.lines == moved.lines == ("b and", "b or")


def test_what_reaches_a_line_is_what_it_belongs_to_and_what_uses_that():
    source = (
        "LIMIT = 5\n\ndef _below(n):\n    return n < LIMIT\n\ndef check(n):\n    return _below(n)\n\ndef other(): ...\n"
    )
    assert find_public(source, 1) == {"LIMIT", "check"}
    assert find_public(source, 4) == find_public(source, 7) == {"check"}


def test_the_tests_that_name_the_function_come_first_and_all_import_the_module():
    source = Path("decisions/rollback/rule.py").read_text()
    line = source[: source.index("def has_recovered")].count("\n") + 2
    first, *others = choose_tests("decisions/rollback/rule.py", line, 5)
    assert first == "tests/unit/decisions/test_rollback.py"
    assert len(others) == 4


@pytest.mark.parametrize(
    ("status", "failed", "verdict"),
    [
        (0, "", "survived"),
        (2 << 8, "", "survived"),
        (1 << 8, "test_x", "killed"),
        (signal.SIGXCPU, "", "hangs"),
        (signal.SIGKILL, "", "error -9"),  # too long beside other work: nothing is known of it
    ],
)
def test_only_a_process_beyond_its_processor_time_hangs(status, failed, verdict):
    trial = Trial(Mutant("a.py", 0, "a", "b", "a"), [], is_named=False)
    trial.notes, writing = os.pipe()
    os.write(writing, failed.encode())
    os.close(writing)
    trial.end(status)
    assert trial.verdict == verdict


def test_the_lists_fit_the_code():
    named, equivalent = read_lists()
    trials = list(plan_named(named, 1))
    assert len(trials) == len(named) > 0
    for trial in trials:
        compile(trial.mutant.mutated, trial.mutant.file, "exec")
        assert Path(trial.tests[0]).is_file(), trial.tests[0]
    for file, before, after in equivalent:
        changes = {mutant.lines for mutant in find_mutants(file, Path(file).read_text())}
        assert (before, after) in changes, f"{file} has no such line any more: {before}"
