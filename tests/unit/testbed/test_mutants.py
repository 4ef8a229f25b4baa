"""Mutants: what is changed, which tests run for it, and that the lists are those of the code as it is now."""

import os
import signal
from pathlib import Path

import pytest

from testbed.mutants.__main__ import Trial, plan_named, read_lists
from testbed.mutants.changes import Mutant, find_mutants


def test_the_lines_of_a_mutant_are_the_same_where_lines_are_added_above_it():
    first, second = "a(\n    b  and\n    c\n)\n", "d = e\n\n"
    (mutant,), (moved,) = find_mutants("a.py", first), find_mutants("a.py", second + first)
    assert (mutant.line, moved.line) == (2, 4)
    assert mutant.lines == moved.lines == ("b and", "b or")


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
