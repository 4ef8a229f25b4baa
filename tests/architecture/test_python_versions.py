"""What training jobs install keeps to the oldest Python that its wheel names, where the rest of Slipway does not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "3.9"


def check(*paths: object) -> subprocess.CompletedProcess[str]:
    """Look for what the oldest Python does not have: syntax, modules, functions and arguments."""
    options = ["--quiet", "--violations", "--eval-annotations", "--no-tips", f"--target={OLDEST}-"]
    vermin = Path(sys.executable).with_name("vermin")
    return subprocess.run(
        [vermin, *options, *paths], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_training_client_and_the_contracts_that_it_ships_keep_to_the_oldest_python():
    done = check("contracts", "clients/training")
    assert done.returncode == 0, done.stdout
    assert f'requires-python = ">={OLDEST}"' in (ROOT / "clients/training/pyproject.toml").read_text()


def test_what_the_oldest_python_lacks_is_found(tmp_path):
    module = tmp_path / "newer.py"
    for newer in ("from datetime import UTC\n", "from typing import Self\n", "match 1:\n    case _: pass\n"):
        module.write_text(newer)
        assert check(module).returncode == 1, newer
