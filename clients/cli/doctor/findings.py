"""The outcome of a check of `slipway doctor`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        check: Name of the check.
        state: `failure` if something would fail, `warning` if it would work badly.
        detail: The facts, with figures.
        advice: What to do; empty if nothing is to be done.
    """

    check: str
    state: Literal["ok", "warning", "failure"]
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, advice: str) -> Finding:
    """Return a finding about something that works badly."""
    return Finding(check, "warning", detail, advice)


def failure(check: str, detail: str, advice: str) -> Finding:
    """Return a finding about something that fails."""
    return Finding(check, "failure", detail, advice)


def passed(findings: Iterable[Finding]) -> bool:
    """Return whether no finding is a failure."""
    return all(finding.state != "failure" for finding in findings)
