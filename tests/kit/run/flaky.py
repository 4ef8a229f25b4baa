"""Try marked tests twice (pytest-rerunfailures), name those that passed then, and fail a run with too many of them.

The mark says why a test fails at times, and since when: `@pytest.mark.flaky_because("reason", since="2026-11-30")`.
"""

from datetime import date
from pathlib import PurePosixPath

import pytest

MOST = 2
"""Flaky tests that a run may have and still pass, unless it says another number."""
NEVER = ("tests/unit", "tests/contract", "tests/architecture", "tests/chaos/test_soak.py")
"""Files and folders whose tests get no second try: what fails there by chance is a defect of the test or the product."""


def pytest_addoption(parser):
    """Add the number of flaky tests that a run may have."""
    parser.addoption("--most-flaky", type=int, default=MOST, help="flaky tests that a run may have and still pass")


def refusals(item: pytest.Item) -> list[str]:
    """Return what is wrong with the marks of a test that ask for a second try."""
    if next(item.iter_markers("flaky"), None):
        return [f"{item.nodeid}: the mark 'flaky' has no reason; use flaky_because(reason, since=date)"]
    refused = []
    for mark in item.iter_markers("flaky_because"):
        path = PurePosixPath(item.nodeid.split("::", 1)[0])
        if any(path.is_relative_to(never) for never in NEVER):
            refused.append(f"{item.nodeid}: a test in {', '.join(NEVER)} gets no second try; correct it or the product")
        if len(mark.args) != 1 or not isinstance(mark.args[0], str) or not mark.args[0].strip():
            refused.append(f"{item.nodeid}: flaky_because{mark.args} needs one reason, a text")
        if set(mark.kwargs) != {"since"} or not _is_date(mark.kwargs["since"]):
            refused.append(f"{item.nodeid}: flaky_because({mark.kwargs}) needs since, a date like 2026-11-30")
    return refused


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Return the report of a module's collection: marked tests get a second try, and a wrong mark is an error."""
    report = yield
    items = [node for node in report.result or () if isinstance(node, pytest.Item)]
    if refused := [line for item in items for line in refusals(item)]:
        report.outcome, report.longrepr, report.result = "failed", "\n".join(refused), []
        return report
    for item in items:
        if next(item.iter_markers("flaky_because"), None):
            item.add_marker(pytest.mark.flaky(reruns=1))
    return report


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
