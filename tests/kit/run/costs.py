"""Show what the tests cost, by folder: the seconds that they ran, added over all workers."""

from collections import Counter

LEAST_TESTS = 200
"""A smaller run prints no table."""


def cost_by_folder(reports) -> list[tuple[str, float, int]]:
    """Return folder, seconds and number of tests, the dearest first."""
    seconds, tests = Counter(), {}
    for report in reports:
        folder = "/".join(report.nodeid.split("/")[:2])
        seconds[folder] += report.duration
        tests.setdefault(folder, set()).add(report.nodeid)
    return [(folder, spent, len(tests[folder])) for folder, spent in seconds.most_common()]


def pytest_terminal_summary(terminalreporter):
    """Print the table, and the twenty files that cost most."""
    reports = [
        report
        for found in terminalreporter.stats.values()
        for report in found
        if hasattr(report, "duration") and hasattr(report, "when") and report.when != "collect"
    ]
    if len({report.nodeid for report in reports}) < LEAST_TESTS:
        return
    terminalreporter.section("cost by folder, all workers together")
    for folder, spent, tests in cost_by_folder(reports):
        terminalreporter.line(f"{spent:8.1f} s  {tests:5} tests  {folder}")
    files = Counter()
    for report in reports:
        files[report.nodeid.split("::")[0]] += report.duration
    for file, spent in files.most_common(20):
        terminalreporter.line(f"{spent:8.1f} s  {file}")
