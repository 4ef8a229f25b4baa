"""The command line where packages are missing, as in its image, which has no torch: a command that needs one says so."""

import os
import subprocess
import sys
from pathlib import Path

from contracts.version import CONTRACTS, VERSION

ROOT = Path(__file__).resolve().parents[3]


def slipway(folder: Path, *arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line where some packages cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({without.split()})); from clients.cli.main import main; main()"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_command_that_needs_a_package_which_is_not_there_says_so(tmp_path):
    done = slipway(tmp_path, "keys", "init", "--folder", "keys", without="cryptography")
    assert done.returncode == 1, done.stderr
    assert "needs the package cryptography, which is not installed here" in done.stderr
    assert "make setup" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_that_of_the_code_also_where_it_is_not_installed(tmp_path):
    assert slipway(tmp_path, "--version").stdout.startswith(f"slipway {VERSION}, contracts {CONTRACTS}")
