"""What of the findings ends `slipway doctor` with an error."""

from pathlib import Path

import pytest

from clients.cli.doctor.checks import run_check
from clients.cli.doctor.findings import Finding, failure, ok, passed, warning
from deploy.local.state import shorten


@pytest.mark.parametrize(
    ("findings", "well"),
    [
        ([ok("a", "")], True),
        ([ok("a", ""), warning("b", "", "")], True),
        ([failure("a", "", ""), ok("b", "")], False),
    ],
)
def test_only_a_failure_fails(findings, well):
    assert passed(findings) is well


def test_a_check_that_breaks_is_a_failure_and_hides_no_other():
    def broken() -> Finding:
        raise RuntimeError("no /proc here")

    (finding,) = run_check("cpu", broken)
    assert finding.state == "failure"
    assert "no /proc here" in finding.detail


def test_a_path_below_the_working_directory_is_shown_relative():
    assert shorten(Path.cwd() / ".state" / "demo") == ".state/demo"
    assert shorten(Path("/elsewhere/state")) == "/elsewhere/state"
