"""Fail a run in CI (the variable CI) in which a test was skipped that is not expected to be, or that skipped all."""

import os
from pathlib import Path

import pytest

EXPECTED = {
    "tests/integration/test_chart_bus_in_containers.py": "containers need root, podman and a kernel that lets them",
    "tests/integration/test_full_disk.py": "a small disk needs a mount in a namespace, which containers may forbid",
    "tests/integration/test_full_disks.py": "as test_full_disk.py",
    "tests/integration/test_full_store.py": "as test_full_disk.py",
    "tests/integration/test_podman_check.py": "podman is not among what .ci/run installs",
    "tests/integration/test_sandbox.py": "Landlock and seccomp are the kernel's, the numbers of calls the processor's",
    "tests/integration/test_sources_release.py::test_a_disk_that_fills_up_on_the_way": "as test_full_disk.py",
    "tests/real/test_quantise_int4.py::test_search_for_scales_leaves_the_weights_alone": "shows without an accelerator",
    "tests/real/test_two_vllm_releases.py": "OTHER_ENGINE names a second engine environment, which is not made",
    "tests/unit/deploy/test_key_folder.py::test_a_folder_of_another_user_is_refused": "only root becomes another user",
    "tests/unit/deploy/test_key_folder.py::test_what_root_changes_stays_with_the_owner": "needs root",
}
"""How the ids begin of tests that may be skipped: they need a machine, not an installation, that CI does not have."""


ONLY_SKIPS = 77
"""The exit code of a run in CI whose tests were all skipped, as expected: nothing was shown."""


def unexpected(stats: dict[str, list]) -> list[str]:
    """Return id and reason of each skip that is not expected."""
    reports = [report for report in stats.get("skipped", ()) if not report.nodeid.startswith(tuple(EXPECTED))]
    reasons = [report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr for report in reports]
    return [f"{report.nodeid}: {reason}" for report, reason in zip(reports, reasons, strict=True)]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Fail the run if it is in CI and skipped what it should not."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or hasattr(session.config, "workerinput"):
        return
    if (skips := unexpected(reporter.stats)) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if reporter.stats.get("skipped") and not reporter.stats.get("passed") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = ONLY_SKIPS
    session.config.stash[SKIPS] = skips


SKIPS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter):
    """List the skips that failed the run."""
    if not (skips := terminalreporter.config.stash.get(SKIPS, [])):
        return
    terminalreporter.section(f"{len(skips)} unexpected skips fail the run", red=True)
    for line in skips:
        terminalreporter.line(f"UNEXPECTED SKIP {line}")
    terminalreporter.line(f"What is missing must be installed; what cannot be belongs into {Path(__file__).name}.")
