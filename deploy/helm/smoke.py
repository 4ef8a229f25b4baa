"""Publish a canned checkpoint and follow it until it is proven in staging; then cancel it: what `helm test` runs.

    python -m deploy.helm.smoke MODEL [--timeout SECONDS]

Uses the command line with the environment's addresses and credential, those of an administrator: it also imports the
canned base model. Exit code 0: merged, quantised, staged, benchmarked, and waiting for an approval, which is not given.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from deploy.helm.canned import POLICY, write_base, write_lora
from shared.runtime.clock import SystemClock

BASE: Final = "slipway-canned"
POLL_S: Final = 2.0
PROVEN: Final = ("merged", "quantised", "registered", "staged", "benchmarked")


class NotProven(Exception):  # noqa: N818 - the sentence is the point
    """The checkpoint did not come as far as it should."""


def slipway(*arguments: str) -> str:
    """Run a command of the command line; return what it printed.

    Raises:
        NotProven: It failed; the message is its own.
    """
    command = [sys.executable, "-m", "clients.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise NotProven(f"slipway {' '.join(arguments[:2])} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def publish(model: str, folder: Path, attempt: int) -> None:
    """Import the base model and publish the LoRA."""
    write_base(folder / BASE)
    write_lora(folder / "lora", BASE)
    (folder / "policy.json").write_text(json.dumps(POLICY))
    slipway("base", "import", str(folder / BASE), "--name", BASE)
    checkpoint = ("--base", BASE, "--adapter", str(folder / "lora"), "--variant", "bf16", "--attempt", str(attempt))
    proof = ("--run-id", "helm-test", "--data-hash", f"sha256:{'0' * 64}", "--policy", str(folder / "policy.json"))
    slipway("publish", "--model", model, *checkpoint, *proof)


def assess(release: dict[str, Any]) -> bool:
    """Return whether a release is proven in staging and waits for its approval.

    Raises:
        NotProven: It has ended.
    """
    if release["outcome"] is not None:
        code = f" ({release['code']})" if release["code"] else ""
        raise NotProven(f"the release ended as {release['outcome']}{code}: {release['reason']}")
    states = {step["name"]: step["state"] for step in release["steps"]}
    return all(states.get(name) == "done" for name in PROVEN) and states.get("approved") == "running"


def follow(model: str, since: float, timeout_s: float) -> dict[str, Any]:
    """Return the newest release of a model once it is proven.

    Raises:
        NotProven: It ended, or is not proven in time.
    """
    deadline = since + timeout_s
    steps: list[Any] = []
    while time.monotonic() < deadline:
        releases = json.loads(slipway("status", model, "--json"))
        if releases:
            release: dict[str, Any] = releases[-1]
            if assess(release):
                return release
            steps = [f"{step['name']} {step['state']}" for step in release["steps"]]
        time.sleep(POLL_S)
    raise NotProven(f"not proven within {timeout_s:.0f} s: {', '.join(steps) or 'no release was opened'}")


def main() -> None:
    """Publish, follow, cancel; print one line for each."""
    parser = argparse.ArgumentParser(prog="python -m deploy.helm.smoke", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="name of the model, which no other release should have")
    parser.add_argument("--timeout", type=float, default=900.0, help="most seconds until it is proven")
    given = parser.parse_args()
    began = time.monotonic()
    attempt = int(SystemClock().now().timestamp())  # each run is a release of its own
    try:
        with tempfile.TemporaryDirectory(prefix="slipway-canned-") as folder:
            publish(given.model, Path(folder), attempt)
        sys.stdout.write(f"published a canned checkpoint of {given.model}\n")
        try:
            release = follow(given.model, began, given.timeout)
        finally:
            subprocess.run(
                [sys.executable, "-m", "clients.cli.main", "cancel", given.model, "--reason", "helm test"], check=False
            )
    except NotProven as error:
        sys.exit(f"smoke: {error}")
    took = time.monotonic() - began
    proven = f"{release['model']} v{release['version']}"
    sys.stdout.write(f"{proven} is proven in staging after {took:.0f} s, and cancelled\n")


if __name__ == "__main__":
    main()
