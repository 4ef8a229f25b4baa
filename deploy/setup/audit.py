"""Ask a vulnerability service about every locked package: `python -m deploy.setup.audit`.

Exit status: 0 nothing found but what is accepted, 1 findings, 2 wrong use or wrong files, 3 the service gave no answer,
so that nothing is known. requirements/audit.toml lists accepted findings, each with a reason and the day until which it
holds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from deploy.setup.locks import LOCKS, read_pins
from shared.runtime.clock import SystemClock

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = Path("requirements/audit.toml")
TOOL = Path(".venv-audit/bin/pip-audit")
SERVICE = "https://api.osv.dev/v1/query"
FOUND, WRONG, NO_ANSWER = 1, 2, 3


class NoAnswer(Exception):  # noqa: N818 - the sentence is the point
    """The vulnerability service could not be asked about every package."""


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a locked package."""

    package: str
    version: str
    names: frozenset[str]
    """Its identifier and aliases."""
    fixed_in: tuple[str, ...]

    def sentence(self) -> str:
        """Return the finding as a line."""
        fixed = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no version with a fix is known"
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}; {fixed}"


@dataclass(frozen=True)
class Acceptance:
    """A finding that stays, why, and until when."""

    id: str
    package: str
    reason: str
    until: date


def read_acceptances(text: str) -> list[Acceptance]:
    """Return the accepted findings of a file.

    Raises:
        ValueError: an entry lacks a field, has an empty one, or one of another type.
    """
    entries = tomllib.loads(text).get("accepted", [])
    for entry in entries:
        if (
            set(entry) != {"id", "package", "reason", "until"}
            or not all(entry.values())
            or type(entry["until"]) is not date
        ):
            raise ValueError(f"{ACCEPTED}: {entry} needs id, package, reason and until, a day such as 2027-01-31")
    return [Acceptance(**entry) for entry in entries]


def judge(findings: list[Finding], acceptances: list[Acceptance], today: date) -> list[str]:
    """Return what must change: findings that are not accepted, and acceptances that are over or without a finding."""
    wrong = []
    used = set()
    for finding in findings:
        held = [item for item in acceptances if item.package == finding.package and item.id in finding.names]
        used |= {item.id for item in held}
        if not any(item.until >= today for item in held):
            over = f" (accepted until {max(item.until for item in held)})" if held else ""
            wrong.append(finding.sentence() + over)
    wrong += [
        f"{ACCEPTED}: {item.id} of {item.package} is not found any more" for item in acceptances if item.id not in used
    ]
    return wrong


def ask(requirements: Path, service: str, timeout_s: int) -> list[Finding]:
    """Return what the service knows of pinned packages.

    Raises:
        NoAnswer: it did not answer for each of them.
    """
    command = [str(ROOT / TOOL), "--requirement", str(requirements), "--disable-pip", "--no-deps", "--format", "json"]
    command += [
        "--progress-spinner",
        "off",
        "--vulnerability-service",
        "osv",
        "--osv-url",
        service,
        "--timeout",
        str(timeout_s),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        lines = done.stderr.strip().splitlines() or [f"pip-audit ended with status {done.returncode}"]
        raise NoAnswer(lines[-1]) from error
    skipped = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    if skipped:
        raise NoAnswer("; ".join(skipped))
    return [
        Finding(
            package["name"],
            package["version"],
            frozenset({known["id"], *known["aliases"]}),
            tuple(known["fix_versions"]),
        )
        for package in packages
        for known in package["vulns"]
    ]


def locked() -> list[str]:
    """Return name and version of every package in any lock, once."""
    pins = [pin for lock in LOCKS if lock.audited for pin in read_pins((ROOT / lock.target).read_text())]
    return sorted({f"{pin.name}=={pin.version}" for pin in pins})


def audit(names: list[str], service: str, timeout_s: int) -> list[Finding]:
    """Return the findings of pinned packages, `name==version` each; of a package that has two versions, both are asked.

    Raises:
        NoAnswer: the service did not answer for each of them.
    """
    rounds: list[dict[str, str]] = []  # pip-audit takes one version of a package at a time
    for name in names:
        package = name.partition("==")[0]
        free = next((items for items in rounds if package not in items), None)
        if free is None:
            free = {}
            rounds.append(free)
        free[package] = name
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        for items in rounds:
            path.write_text("\n".join(items.values()) + "\n")
            results += ask(path, service, timeout_s)
    return results


def main() -> None:
    """Audit the locks and exit with what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", default=SERVICE, metavar="URL", help="an OSV service (default: %(default)s)")
    parser.add_argument("--timeout-s", type=int, default=15)
    options = parser.parse_args()
    try:
        acceptances = read_acceptances((ROOT / ACCEPTED).read_text())
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(WRONG)
    names = locked()
    try:
        findings = audit(names, options.service, options.timeout_s)
    except NoAnswer as error:
        what = f"so nothing is known of the {len(names)} locked packages"
        sys.stderr.write(f"{options.service} gave no answer, {what}: {error}\n")
        sys.exit(NO_ANSWER)
    wrong = judge(findings, acceptances, SystemClock().now().date())
    for line in wrong:
        sys.stderr.write(line + "\n")
    sys.stdout.write(f"{len(names)} packages, {len(findings)} findings, {len(wrong)} to act on\n")
    sys.exit(FOUND if wrong else 0)


if __name__ == "__main__":
    main()
