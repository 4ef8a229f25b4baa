"""The test run itself: flaky tests are named, too many of them fail it, and so does a check beside it."""

from pathlib import Path

import pytest

from tests.kit.run.flaky import NEVER
from tests.kit.run.lanes import FIRST, LANES, SHARING, choose, lane_of
from tests.kit.run.skips import EXPECTED

pytest_plugins = ["pytester"]
PLUGINS = (
    "pytest_rerunfailures",
    "xdist.plugin",
    "tests.kit.run.flaky",
    "tests.kit.run.beside",
    "tests.kit.run.encodable",
    "no:cacheprovider",
)
INI = """
[pytest]
addopts = --strict-markers
markers =
    flaky_because: as the project's
"""
FLAKY = """
import pathlib, pytest

@pytest.mark.flaky_because("only the first time", since="2026-11-30")
@pytest.mark.parametrize("number", range({flaky}))
def test_fails_once(number):
    seen = pathlib.Path(f"seen-{{number}}")
    if not seen.exists():
        seen.touch()
        raise AssertionError("only the first time")

def test_other():
    assert {passes}
"""


@pytest.fixture
def run(pytester, monkeypatch, request):
    """Run a file with so many flaky tests in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    pytester.makeini(INI)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # no library's plugin is needed, and imports take seconds

    def run(flaky, *arguments, passes=True):
        pytester.makepyfile(FLAKY.format(flaky=flaky, passes=passes))
        plugins = [word for name in PLUGINS for word in ("-p", name)]
        return pytester.runpytest_subprocess(*plugins, "-W", "ignore", *arguments, timeout=60)

    return run


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["one process", "a worker"])
def test_two_flaky_tests_are_named_in_the_summary_and_pass(run, arguments):
    done = run(2, *arguments)
    assert done.ret == pytest.ExitCode.OK
    done.stdout.fnmatch_lines(
        ["FLAKY *test_fails_once?0? (call) - AssertionError: only the first time", "FLAKY *test_fails_once?1?*"]
    )
    assert "3 passed, 2 flaky" in done.outlines[-1]


def test_three_flaky_tests_fail_the_run(run):
    done = run(3)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["More than 2 flaky tests fail the run."])
    assert "4 passed, 3 flaky" in done.outlines[-1]


GOOD_MARK = 'flaky_because("why", since="2026-11-30")'
REFUSED = {
    **{f"{place}/test_{n}.py": (GOOD_MARK, "no second try") for n, place in enumerate(NEVER[:3])},
    NEVER[3]: (GOOD_MARK, "no second try"),
    "tests/e2e/test_no_reason.py": ('flaky_because(since="2026-11-30")', "needs one reason"),
    "tests/e2e/test_empty_reason.py": ('flaky_because(" ", since="2026-11-30")', "needs one reason"),
    "tests/e2e/test_no_date.py": ('flaky_because("why")', "needs since"),
    "tests/e2e/test_bad_date.py": ('flaky_because("why", since="November")', "needs since"),
    "tests/e2e/test_other_mark.py": ("flaky(reruns=3)", "has no reason"),
}


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["one process", "a worker"])
def test_wrong_marks_are_refused_at_collection(pytester, run, arguments):
    for file, (mark, _) in REFUSED.items():
        path = pytester.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import pytest\npytestmark = pytest.mark.{mark}\nclass TestX:\n    def test_x(self): pass\n")
    done = run(0, *arguments)
    assert done.ret != pytest.ExitCode.OK
    for file, (_, told) in REFUSED.items():
        done.stdout.fnmatch_lines_random([f"*{file}*test_x*{told}*"])
    assert f"{len(REFUSED)} errors" in "".join(done.outlines[-2:])


@pytest.mark.parametrize(("code", "shown"), [(0, "passed"), (3, "failed with exit code 3")])
def test_a_check_beside_the_tests_counts_and_the_summary_stays_last(run, code, shown):
    done = run(0, f"--beside=echo what it says; exit {code}")
    assert done.ret == (pytest.ExitCode.TESTS_FAILED if code else pytest.ExitCode.OK)
    done.stdout.fnmatch_lines([f"*exit {code}: {shown}*"])
    assert "what it says" in done.outlines
    assert "1 passed" in done.outlines[-1]
    assert ("1 check failed" in done.outlines[-1]) == bool(code)


SKIPS = """
import pytest

def test_passes(): pass

@pytest.mark.skip(reason="a program is missing")
def test_skipped(): pass
"""


@pytest.mark.parametrize(
    ("file", "ci", "arguments"),
    [("test_x.py", "1", ()), ("test_x.py", "1", ("-n1",)), ("test_x.py", "", ()), (next(iter(EXPECTED)), "1", ())],
    ids=["in CI", "in CI, of a worker", "elsewhere", "expected in CI"],
)
def test_an_unexpected_skip_fails_the_run_in_ci_only(run, monkeypatch, file, ci, arguments):
    monkeypatch.setenv("CI", ci)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(SKIPS)
    done = run(0, file, "-p", "tests.kit.run.skips", *arguments)
    is_unexpected = bool(ci) and file not in EXPECTED
    assert done.ret == (pytest.ExitCode.TESTS_FAILED if is_unexpected else pytest.ExitCode.OK)
    assert ("a program is missing" in done.stdout.str()) == is_unexpected
    assert "1 passed, 1 skipped" in done.outlines[-1]


def test_tests_whose_skips_are_expected_exist(request):
    for file, _, test in (name.partition("::") for name in EXPECTED):
        assert f"def {test}" in (request.config.rootpath / file).read_text()


FILES = ("tests/unit/cli/test_ask.py", "tests/real/test_triton_vllm.py", "tests/chaos/test_failpoints.py")


def test_each_lane_is_one_workers_and_the_rest_is_for_all():
    assert [lane_of(file) for file in FILES] == [None, 0, None]
    assert [choose(FILES, worker, 3) for worker in range(3)] == [FILES[1], FILES[2], FILES[2]], "long files come first"
    assert [choose(FILES[:1], worker, 3) for worker in range(3)] == [FILES[0]] * 3
    assert choose(FILES[1:2], 2, 3) is None, "what is bound to another worker is left to it"


def test_lanes_name_what_exists(request):
    named = [path for paths in (*LANES, FIRST, SHARING) for path in paths]
    assert [path for path in named if not (request.config.rootpath / path).exists()] == []


def test_a_module_that_fails_to_import_is_reported_by_the_collection(pytester, run):
    pytester.makepyfile(
        test_broken="import no_such_module", test_skipped="import pytest; pytest.skip('x', allow_module_level=True)"
    )
    done = run(0, "-n1", "-p", "tests.kit.run.compiling", ".")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*No module named 'no_such_module'*"])
    assert "1 passed" in done.outlines[-1]
    assert "1 error" in done.outlines[-1]
