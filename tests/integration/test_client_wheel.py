"""The training client as outsiders get it: its own wheel, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta; print('wheel:' + build_meta.build_wheel(sys.argv[1]))"
USE = """
import importlib.util, sys
import slipway_client
from slipway_client import Connection, PublishError, Run, publish_checkpoint
from slipway_client.contracts.facts import CheckpointReady
assert CheckpointReady.TYPE == "slipway.checkpoint.ready.v1"
assert importlib.util.find_spec("contracts") is None, "the distribution adds one name only"
for heavy in ("torch", "transformers", "faststream", "shared", "clients"):
    assert importlib.util.find_spec(heavy) is None, heavy
try:
    publish_checkpoint("nowhere", model="../x", base="b", run=Run("r", "sha256:" + "0" * 64))
except PublishError as error:
    print("refused:", error)
try:
    slipway_client.SlipwayCallback
except ModuleNotFoundError as error:
    print("without transformers:", error.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that the repository stays clean."""
    copy = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT / "contracts", copy / "contracts", ignore=ignore)
    shutil.copytree(ROOT / "clients" / "training", copy / "clients" / "training", ignore=ignore)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=copy / "clients" / "training", check=True, timeout=120)
    (built,) = out.glob("slipway_client-*.whl")
    return built


def test_the_wheel_holds_the_client_and_the_contracts_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = "".join(archive.read(name).decode() for name in names if name.endswith(".py"))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"slipway_client"}
    assert "slipway_client/contracts/facts/admission.py" in names
    assert "slipway_client/py.typed" in names
    assert "slipway_client/setup.py" not in names
    assert "clients.training" not in sources
    assert "from contracts" not in sources


@pytest.mark.timeout(240)
def test_the_wheel_installs_alone_and_works(wheel, tmp_path):
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, env=clean, timeout=200)
    done = subprocess.run(
        [python, "-c", USE], check=False, env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "refused: The model name '../x' is not valid" in done.stdout
    assert "without transformers: transformers" in done.stdout
