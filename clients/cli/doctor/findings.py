"""The outcome of one check, and its formatting."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failure", "skipped"]
MARKS: dict[State, str] = {"ok": "ok", "warning": "warn", "failure": "FAIL", "skipped": "-"}
MARK_WIDTH = max(len(mark) for mark in MARKS.values())


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        check: Name of the check.
        state: `failure` if something would fail, `warning` if it would work worse than it could.
        detail: What there is, with its figures.
        advice: What to do; empty if nothing is to be done.
    """

    check: str
    state: State
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, advice: str) -> Finding:
    """Return a finding that makes things worse than they could be."""
    return Finding(check, "warning", detail, advice)


def failure(check: str, detail: str, advice: str) -> Finding:
    """Return a finding that makes something fail."""
    return Finding(check, "failure", detail, advice)


def skipped(check: str, why: str) -> Finding:
    """Return that a check was not made, and why."""
    return Finding(check, "skipped", why)


def passed(findings: Iterable[Finding]) -> bool:
    """Return whether nothing would fail."""
    return all(finding.state != "failure" for finding in findings)


def as_line(finding: Finding, name_width: int) -> str:
    """Return a finding as one line for people."""
    text = finding.detail + (f": {finding.advice}" if finding.advice else "")
    return f"{MARKS[finding.state]:<{MARK_WIDTH}}  {finding.check:<{name_width}}  {text}"


def as_row(finding: Finding) -> str:
    """Return a finding as one tab-separated line for programs."""
    return f"{finding.state}\t{finding.check}\t{finding.detail}\t{finding.advice}".rstrip()


def summary(findings: list[Finding]) -> str:
    """Return one sentence about all findings."""
    failures = sum(finding.state == "failure" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if failures:
        return f"{_counted(failures, 'check')} failed; each line says what to do"
    if warnings:
        return f"all checks passed, {_counted(warnings, 'warning')}"
    return "all checks passed"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
