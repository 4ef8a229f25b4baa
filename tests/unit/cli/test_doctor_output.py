"""How findings are read: one aligned line for people, tabs for programs, JSON on demand."""

from pathlib import Path

import pytest

from clients.cli.doctor.checks import Check, run_check
from clients.cli.doctor.findings import (
    Finding,
    as_line,
    as_row,
    failure,
    ok,
    passed,
    skipped,
    summary,
    warning,
)
from deploy.local.state import shorten


def test_findings_are_lines_for_people_tabs_and_json_for_programs(snapshot):
    findings = [
        ok("cpu", "AMD EPYC"),
        warning("cores", "1 usable", "give it 2"),
        failure("disk", "0.1 GiB free", "free 2 GiB"),
        skipped("a", ""),
    ]
    lines = [as_line(finding, 8) for finding in findings] + [as_row(finding) for finding in findings]
    ends = [summary(findings), summary(findings[:1]), summary(findings[:2]), summary([*findings, *findings])]
    assert "\n".join([*lines, *ends]) == snapshot


@pytest.mark.parametrize(
    ("findings", "well"),
    [
        ([ok("a", "")], True),
        ([ok("a", ""), warning("b", "", "")], True),
        ([skipped("a", "")], True),
        ([failure("a", "", ""), ok("b", "")], False),
    ],
)
def test_only_a_failure_fails(findings, well):
    assert passed(findings) is well


def test_a_check_that_breaks_is_a_failure_and_hides_no_other():
    def broken() -> Finding:
        raise RuntimeError("no /proc here")

    finding = run_check(Check("cpu", broken))
    assert finding.state == "failure"
    assert "no /proc here" in finding.detail


def test_a_path_below_the_working_directory_is_shown_relative():
    assert shorten(Path.cwd() / ".state" / "demo") == ".state/demo"
    assert shorten(Path("/elsewhere/state")) == "/elsewhere/state"
