"""Name the tests that failed and passed on a second try (pytest-rerunfailures), and fail a run with too many of them."""

import pytest

MOST = 2
"""Flaky tests that a run may have and still pass, unless it says another number."""


def pytest_addoption(parser):
    """Add the number of flaky tests that a run may have."""
    parser.addoption("--most-flaky", type=int, default=MOST, help="flaky tests that a run may have and still pass")


def rename_reruns(stats: dict[str, list]) -> list:
    """Turn the first failures of tests that passed later into the category `flaky`, and return them."""
    failed = {report.nodeid for kind in ("failed", "error") for report in stats.get(kind, ())}
    first = {report.nodeid: report for report in reversed(stats.pop("rerun", [])) if report.nodeid not in failed}
    if first:
        stats["flaky"] = list(reversed(first.values()))
    return stats.get("flaky", [])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Fail the run with more flaky tests than allowed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    most = session.config.getoption("most_flaky")
    if len(rename_reruns(reporter.stats)) > most and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """List the flaky tests with what failed the first time."""
    flaky = terminalreporter.stats.get("flaky", [])
    if not flaky:
        return
    terminalreporter.section(f"{len(flaky)} flaky: failed, then passed on the second try", yellow=True)
    for report in flaky:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = str(crash.message if crash else report.longrepr).partition("\n")[0]
        terminalreporter.line(f"FLAKY {report.nodeid} ({report.when}) - {reason}")
    most = terminalreporter.config.getoption("most_flaky")
    if len(flaky) > most:
        terminalreporter.line(f"More than {most} flaky tests fail the run.", red=True)
