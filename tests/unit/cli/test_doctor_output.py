"""How findings are read: one aligned line for people, tabs for programs, JSON on demand; and what facts are read from."""

from pathlib import Path

import pytest

from clients.cli.doctor.checks import Check, run_check
from clients.cli.doctor.findings import (
    Finding,
    as_data,
    as_line,
    as_row,
    ease,
    failure,
    ok,
    passed,
    skipped,
    summary,
    warning,
)
from clients.cli.doctor.gather import compare_pins, parse_cpuinfo, parse_pins
from deploy.local.state import shorten

PINS = """# comment
numpy==2.4.6
torch>=2.13,<2.14
tomli==2.0 ; python_version < "3.11"
hf-xet==1.8.0  # behind it
"""
LOCK = """# made by `make locks`
numpy==2.4.6 \\
    --hash=sha256:00 \\
    --hash=sha256:01
six==1.17.0 ; python_version == '3.12' \\
    --hash=sha256:02
"""


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
    assert as_data(ok("cpu", "x"), 0.12345)["seconds"] == 0.123


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


def test_a_cause_that_ends_by_itself_makes_a_failure_a_warning_and_leaves_the_rest():
    eased = ease(failure("memory", "1 GiB available", "end other programs"), "`slipway up` ends them")
    assert eased == warning("memory", "1 GiB available", "`slipway up` ends them")
    assert ease(ok("memory", "8 GiB"), "why") == ok("memory", "8 GiB")


def test_a_check_that_breaks_is_a_failure_and_hides_no_other():
    def broken() -> Finding:
        raise RuntimeError("no /proc here")

    finding, seconds = run_check(Check("cpu", "reading", broken))
    assert finding.state == "failure"
    assert "no /proc here" in finding.detail
    assert seconds >= 0


def test_pins_are_those_that_hold_for_this_python():
    assert [pin.name for pin in parse_pins(PINS, (3, 13))] == ["numpy", "torch", "hf-xet"]


@pytest.mark.parametrize(("python", "pins"), [((3, 11), ["numpy==2.4.6"]), ((3, 12), ["numpy==2.4.6", "six==1.17.0"])])
def test_a_lock_is_read_without_its_hashes(python, pins):
    assert [f"{pin.name}{pin.specifier}" for pin in parse_pins(LOCK, python)] == pins


def test_installed_packages_are_compared_by_their_normal_name_and_without_local_label():
    installed = {"numpy": "2.4.6", "torch": "2.13.0+cpu", "hf-xet": "1.7.0"}
    packages = compare_pins(parse_pins(PINS, (3, 11)), installed)
    assert packages.pins == 3
    assert packages.wrong == (("hf-xet", "1.7.0", "==1.8.0"),)
    assert compare_pins(parse_pins(PINS, (3, 11)), {}).wrong[0] == ("numpy", "", "==2.4.6")


def test_the_first_processor_of_cpuinfo_counts():
    text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: other\n"
    assert parse_cpuinfo(text) == ("AMD EPYC", frozenset({"fpu", "avx2"}))
    assert parse_cpuinfo("") == ("unknown CPU", frozenset())


def test_a_path_below_the_working_directory_is_shown_relative():
    assert shorten(Path.cwd() / ".state" / "demo") == ".state/demo"
    assert shorten(Path("/elsewhere/state")) == "/elsewhere/state"
