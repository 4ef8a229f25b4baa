"""Show what the tests cost, by folder and by file: seconds, and processor seconds, added over all workers.

With `--times FILE` those of all files are kept.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

LEAST_TESTS = 200
"""A smaller run prints no table."""
FILES = 40
"""The dearest files that are listed."""


def processor_s() -> float:
    """Return the processor seconds of this process, and of its children and forks that have ended."""
    forked = sys.modules.get("testbed.forked")
    return sum(os.times()[:4]) + (forked.processor_s() if forked else 0.0)


class Stopwatch:
    """Adds the processor seconds since the report before to each report."""

    def __init__(self) -> None:
        self._before = processor_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        """Note the seconds since the report before."""
        report = yield
        now = processor_s()
        report.processor_s = now - self._before
        self._before = now
        return report


def pytest_addoption(parser):
    """Declare the option."""
    parser.addoption("--times", type=Path, help="write the seconds, processor seconds and tests of each file there")


def pytest_configure(config):
    """Start the stopwatch; each worker has its own."""
    config.pluginmanager.register(Stopwatch(), "stopwatch")


def costs_by(key, reports) -> list[tuple[str, float, float, int]]:
    """Return name, seconds, processor seconds and number of tests of each group, the dearest first."""
    seconds, processor, tests = Counter(), Counter(), {}
    for report in reports:
        name = key(report.nodeid.split("::")[0])
        seconds[name] += report.duration
        processor[name] += getattr(report, "processor_s", 0.0)
        tests.setdefault(name, set()).add(report.nodeid)
    return [(name, spent, processor[name], len(tests[name])) for name, spent in seconds.most_common()]


def pytest_terminal_summary(terminalreporter):
    """Print the costs of the folders, and of the files that cost most; write those of all files."""
    reports = [
        report
        for same_outcome in terminalreporter.stats.values()
        for report in same_outcome
        if hasattr(report, "duration") and getattr(report, "when", "collect") != "collect"
    ]
    by_file = costs_by(str, reports)
    if path := terminalreporter.config.getoption("times"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}\t{spent:.1f}\t{processor:.1f}\t{tests}\n" for name, spent, processor, tests in by_file]
        path.write_text("".join(["file\tseconds\tprocessor_seconds\ttests\n", *lines]))
        terminalreporter.line(f"Seconds of each test file: {path}")
    if len({report.nodeid for report in reports}) < LEAST_TESTS:
        return
    terminalreporter.section("costs, all workers together: seconds, processor seconds, tests")
    folders = costs_by(lambda file: "/".join(file.split("/")[:2]), reports)
    for name, spent, processor, tests in [*folders, *by_file[:FILES]]:
        terminalreporter.line(f"{spent:8.1f} {processor:8.1f} {tests:6} {name}")
