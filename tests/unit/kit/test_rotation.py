"""The job that a run takes beside its tests: which one is taken, and what becomes of the table."""

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.kit.run import rotation
from tests.kit.run.rotation import NEVER, NONE, Job, in_turn, main, read, row

HEADER = "job\tset-up\tcommand\tpassed\tcommit\tseconds"


def job(name, command="true", passed=NEVER, setup=NONE):
    return Job(name, setup, command, passed, NONE, NONE)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Return what writes a table and commits it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()

    def table(*jobs):
        rotation.TABLE.write_text("\n".join([HEADER, *map(row, jobs)]) + "\n")
        commit("a table")

    return table


def commit(message):
    named = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    for arguments in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--allow-empty", "-m", message)):
        subprocess.run(["git", *named, *arguments], check=True)


def taken(*arguments):
    """Run a job; return its exit code and the jobs that ran, by the file that each writes to."""
    ran = Path("ran")
    ran.unlink(missing_ok=True)
    return main(arguments), ran.read_text().split() if ran.exists() else []


def notes(name):
    return f"echo {shlex.quote(name)} >> ran"


def test_the_job_that_passed_longest_ago_is_taken_and_first_those_that_never_did():
    jobs = [job("b", passed="2026-11-30 10:00"), job("a", passed="2026-11-29 10:00"), job("n"), job("m")]
    assert [each.name for each in in_turn(jobs, 0)] == ["n", "m", "a", "b"]
    assert [each.name for each in in_turn(jobs, 5)] == ["m", "a", "b", "n"]


def test_a_job_that_passes_has_the_commit_in_its_row_and_the_next_one_is_taken(table):
    table(job("x", notes("x")), job("y", notes("y")))
    assert taken("--write") == (0, ["x"])
    x, y = read(rotation.TABLE.read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert head.startswith(x.commit)
    assert (float(x.seconds) < 60, y) == (True, job("y", notes("y")))
    assert taken("--write") == (0, ["y"])


def test_a_job_that_fails_fails_and_its_row_stays(table):
    table(job("x", "false"), job("y", notes("y")))
    before = rotation.TABLE.read_text()
    assert taken("--write") == (1, [])
    assert rotation.TABLE.read_text() == before


def test_a_job_whose_set_up_fails_is_passed_over(table):
    table(job("x", notes("x"), setup="false"), job("y", notes("y"), setup="true"))
    assert taken() == (0, ["y"])
    assert taken("--job", "x") == (1, [])


def test_the_table_of_the_project_has_one_row_for_each_full_test(request):
    root = request.config.rootpath
    commands = " ".join(each.command for each in read((root / rotation.TABLE).read_text()))
    marked = [file for file in (root / "tests").rglob("test_*.py") if "pytest.mark.full" in file.read_text()]
    names = [str(file.relative_to(root)) for file in marked if file != Path(__file__)]
    assert [name for name in names if name not in commands] == []
