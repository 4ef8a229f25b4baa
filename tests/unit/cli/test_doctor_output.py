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


def test_a_line_says_what_was_found_and_what_to_do():
    assert as_line(ok("cpu", "AMD EPYC"), 8) == "ok    cpu       AMD EPYC"
    assert as_line(failure("disk", "0.1 GiB free", "free 2 GiB"), 8) == "FAIL  disk      0.1 GiB free: free 2 GiB"


def test_programs_read_tabs_and_json():
    assert as_row(warning("cores", "1 usable", "give it 2")) == "warning\tcores\t1 usable\tgive it 2"
    assert as_data(ok("cpu", "x"), 0.12345)["seconds"] == 0.123


@pytest.mark.parametrize(
    ("findings", "well", "sentence"),
    [
        ([ok("a", "")], True, "all checks passed"),
        ([ok("a", ""), warning("b", "", "")], True, "all checks passed, 1 warning"),
        ([skipped("a", "")], True, "all checks passed"),
        ([failure("a", "", ""), failure("b", "", "")], False, "2 checks failed; each line says what to do"),
    ],
)
def test_only_a_failure_fails(findings, well, sentence):
    assert passed(findings) is well
    assert summary(findings) == sentence


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
