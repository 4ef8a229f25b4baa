"""What `slipway --version` prints: the version, that of the contracts, and the commit of a checkout."""

import shutil
import subprocess
from pathlib import Path

from contracts.version import CONTRACTS, VERSION

ROOT = Path(__file__).resolve().parents[2]
GIT_S = 2.0


def describe_version() -> str:
    """Return `slipway 0.1.0, contracts v1, commit 0ca56037 with changes`; without a checkout, without the commit."""
    commit = find_commit(ROOT)
    return f"slipway {VERSION}, contracts {CONTRACTS}" + (f", commit {commit}" if commit else "")


def find_commit(root: Path) -> str:
    """Return the commit of a checkout; empty if the code was installed, or git is not."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    command = [git, "-C", str(root), "describe", "--always", "--dirty= with changes", "--abbrev=8", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
