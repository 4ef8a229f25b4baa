"""Environments of deploy/setup/environment.sh, and the wheel of slipway-client in them."""

import os
import subprocess
from pathlib import Path

from tests.kit.wiring import ROOT

CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "UV_CONSTRAINT")}
"""The variables of this process, without those that lead another interpreter back to this one's packages."""


def run(*command: object, timeout: float = 240, **variables: str) -> str:
    """Return what a command prints; fail with what it reports if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**CLEAN, **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-6000:]
    return done.stdout


def make_environment(name: str, timeout: float = 240) -> None:
    """Make an environment unless it is up to date."""
    run(ROOT / "deploy/setup/environment.sh", name, timeout=timeout)


def build_client(folder: Path) -> Path:
    """Build the wheels as `make wheels` does; return that of slipway-client."""
    run(ROOT / "deploy/setup/wheels.sh", folder, timeout=120)
    (wheel,) = folder.glob("slipway_client-*.whl")
    return wheel


def install_client(wheel: Path, interpreter: Path, folder: Path) -> Path:
    """Install the wheel into a folder of its own, which becomes the PYTHONPATH of an interpreter; return the folder."""
    install = [ROOT / ".tools/bin/uv", "pip", "install", "--quiet", "--no-deps", "--python", interpreter]
    run(*install, "--target", folder, wheel, timeout=60)
    return folder
