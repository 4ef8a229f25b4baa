"""Three minutes of the soak, which judge memory: two of every service, killed at random through releases of three models."""

import subprocess
import sys

import pytest

from testbed.soak.progress import load
from testbed.stack import ROOT
from tests.kit.soak import SEED

MODELS = {"model-1", "model-2", "model-3"}
pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]


def test_every_release_ends_once_though_everything_is_killed_at_random(tmp_path):
    print(f"SLIPWAY_TEST_SEED={SEED}")
    options = f"--minutes 3 --models 3 --every 3 --rps 1 --settle 400 --seed {SEED}".split()
    done = subprocess.run(
        [sys.executable, "-m", "testbed.soak", *options, "--state", str(tmp_path / "soak")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"SLIPWAY_TEST_SEED={SEED}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    progress = load(tmp_path / "soak")
    assert progress.kills >= 8
    assert {each.model for each in progress.announced if each.number in progress.published} == MODELS
    assert progress.answers["200"] > 0
