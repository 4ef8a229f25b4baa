"""The distributions as outsiders get them: wheels, each in an environment of its own, with locked dependencies."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from contracts.version import CONTRACTS, VERSION

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".tools/bin/uv"
TOOLS = ("deploy/setup/", "deploy/documentation/")
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
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "UV_CONSTRAINT")}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Build both wheels as `make wheels` does; by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [str(ROOT / "deploy/setup/wheels.sh"), str(folder)]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    built = {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}
    assert set(built) == {"slipway", "slipway_client"}
    return built


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def environment(folder: Path, *arguments: str) -> Path:
    """Make an environment and install into it; return its folder of programs."""
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], env=CLEAN, check=True, timeout=60)
    command = [UV, "pip", "install", "--quiet", "--python", folder, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.mark.parametrize("name", ["slipway", "slipway_client"])
def test_the_version_comes_from_one_file_and_is_a_semantic_one(wheels, name):
    assert wheels[name].name == f"{name}-{VERSION}-py3-none-any.whl"
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?", VERSION)


def test_the_client_holds_itself_and_the_contracts_only(wheels):
    names = names_in(wheels["slipway_client"])
    with zipfile.ZipFile(wheels["slipway_client"]) as archive:
        sources = "".join(archive.read(name).decode() for name in names if name.endswith(".py"))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"slipway_client"}
    assert "slipway_client/contracts/facts/admission.py" in names
    assert "slipway_client/py.typed" in names
    assert "slipway_client/setup.py" not in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "clients.training" not in sources
    assert "from contracts" not in sources


def test_slipway_holds_its_packages_with_their_data_and_neither_tests_nor_tools(wheels):
    names = set(names_in(wheels["slipway"]))
    tops = {name.partition("/")[0] for name in names}
    ours = {"contracts", "decisions", "shared", "services", "clients", "deploy"}
    assert {top for top in tops if not top.endswith(".dist-info")} == ours
    assert [name for name in names if re.search(r"(^|/)(tests?|testbed|benchmarks|__pycache__)(/|$)", name)] == []
    assert [name for name in names if name.startswith(TOOLS)] == []
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    tracked = ("contracts/*.yaml", "contracts/schemas", "deploy/nats", "deploy/backends", "*.py")
    listed = subprocess.run(
        ["git", "ls-files", "--", *tracked], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    expected = {name for name in listed if name.partition("/")[0] in ours and not name.startswith(TOOLS)}
    assert len(expected) > 300
    assert {name for name in expected if (ROOT / name).exists()} - names == set()


def test_slipway_works_from_its_wheel_with_the_locked_libraries_of_the_command_line(wheels, tmp_path):
    lock = "deploy/docker/requirements/tools.txt"
    locked = ["--no-deps", "--require-hashes", "--build-constraints", "requirements/build.txt", "-r", lock]
    programs = environment(tmp_path / "venv", *locked)
    install = [UV, "pip", "install", "--quiet", "--no-deps", "--python", tmp_path / "venv", wheels["slipway"]]
    subprocess.run(install, env=CLEAN, check=True, timeout=60)
    for arguments, shown in (("--version", f"slipway {VERSION}, contracts {CONTRACTS}\n"), ("--help", "rollback")):
        assert shown in output_of([programs / "slipway", arguments], tmp_path)


def output_of(command, folder):
    """Run a command in a folder without our source, and return what it prints; fail with what it says if it fails."""
    done = subprocess.run(command, env=CLEAN, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_the_client_installs_alone_and_works(wheels, tmp_path):
    programs = environment(tmp_path / "venv", str(wheels["slipway_client"]))
    output = output_of([programs / "python", "-c", USE], tmp_path)
    assert "refused: The model name '../x' is not valid" in output
    assert "without transformers: transformers" in output
