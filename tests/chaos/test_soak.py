"""Three minutes of the soak: two of every service, killed at random through releases of three models."""

import random
import subprocess
import sys

import pytest

from testbed.soak.progress import load
from testbed.stack import ROOT
from tests.kit.soak import SEED

MODELS = {"model-1", "model-2", "model-3"}
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def test_every_release_ends_once_though_everything_is_killed_at_random(tmp_path):
    seed = SEED or str(random.SystemRandom().randrange(1_000_000))
    options = ("--minutes", "3", "--models", "3", "--every", "4", "--rps", "1", "--settle", "400", "--seed", seed)
    done = subprocess.run(
        [sys.executable, "-m", "testbed.soak", *options, "--state", str(tmp_path / "soak")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    print(done.stdout)  # the seed, for a failure
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    progress = load(tmp_path / "soak")
    assert progress.kills >= 8
    assert {each.model for each in progress.announced if each.number in progress.published} == MODELS
    assert progress.answers["200"] > 0
