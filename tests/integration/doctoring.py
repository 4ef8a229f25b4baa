"""slipway doctor as a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

from testbed.forked import run

ROOT = Path(__file__).resolve().parents[2]


def slipway(*arguments: str, timeout_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clients.cli.main", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}
    return run(command, environment={**clean, **environment}, cwd=ROOT, timeout_s=timeout_s)


def doctor(*arguments: str, timeout_s: float = 120, **environment: str) -> tuple[int, dict[str, dict]]:
    """Run the command; return its exit code and its findings by name."""
    done = slipway("doctor", "--json", *arguments, timeout_s=timeout_s, **environment)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    findings = {finding["check"]: finding for finding in report["findings"]}
    assert report["ok"] == (done.returncode == 0) == all(finding["state"] != "failure" for finding in findings.values())
    return done.returncode, findings
