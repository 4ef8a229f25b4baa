"""The distributions as outsiders get them: wheels, each in an environment of its own, with locked dependencies."""

import re
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from clients.cli import main as command_line
from contracts.version import CONTRACTS, VERSION
from tests.kit.environments import CLEAN, build_client
from tests.kit.wiring import ROOT

UV = ROOT / ".tools/bin/uv"
TOOLS = ("deploy/setup/", "deploy/documentation/")
DATA = ("contracts/*.yaml", "contracts/schemas", "deploy/nats", "deploy/backends", "services/console/templates")
DATA += ("services/console/static", "services/evaluator/*.jsonl", "clients/training/py.typed")
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
SHOW = """
from services.console.web import rendering
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
assert rendering.__file__.startswith(FOLDER), rendering.__file__
browser = TestClient(Starlette(routes=[Mount("/assets", rendering.Assets())]))
print([browser.get(f"/assets/{name}").status_code for name in ("console.css", "console.js", "htmx.js", "none.css")])
pages = rendering.Renderer(clock=None, progress=None, protection=None)._templates.env
print(len([pages.get_template(name) for name in pages.list_templates()]) > 20, rendering.asset_version())
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Build both wheels as `make wheels` does; by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    build_client(folder)
    built = {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}
    assert set(built) == {"slipway", "slipway_client"}
    return built


class Distribution(NamedTuple):
    """What the sources say about a distribution."""

    readme: str
    project: str
    requires: str
    extras: tuple[str, ...]


DISTRIBUTIONS = {
    "slipway": Distribution("README.md", "pyproject.toml", "requirements/main.in", ()),
    "slipway_client": Distribution(
        "clients/training/README.md", "clients/training/pyproject.toml", "clients/training/pyproject.toml", ("trainer",)
    ),
}


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def described(wheel: Path, name: str) -> str:
    """Return a file of the wheel's own folder; empty if it has none of this name."""
    with zipfile.ZipFile(wheel) as archive:
        path = f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info/{name}"
        return archive.read(path).decode() if path in archive.namelist() else ""


def tracked(*patterns: str) -> list[str]:
    """Return the files that git knows and that are there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


def requirements_of(source: Path) -> set[Requirement]:
    """Return what a project file or a list of requirements asks for, that of extras with the extra's marker."""
    if source.suffix == ".toml":
        project = tomllib.loads(source.read_text())["project"]
        extras = project.get("optional-dependencies", {}).items()
        lines = [*project["dependencies"], *(f"{each}; extra == '{extra}'" for extra, of in extras for each in of)]
    else:
        lines = [line.partition(" #")[0] for line in source.read_text().splitlines() if not line.startswith("#")]
    return {Requirement(line) for line in lines if line.strip()}


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


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_metadata_says_what_the_project_says(wheels, name):
    source = DISTRIBUTIONS[name]
    project = tomllib.loads((ROOT / source.project).read_text())["project"]
    metadata = Metadata.from_email(described(wheels[name], "METADATA"), validate=True)
    assert (metadata.name, str(metadata.version), metadata.summary) == (
        name.replace("_", "-"),
        VERSION,
        project["description"],
    )
    assert str(metadata.requires_python) == str(Requirement(f"x{project['requires-python']}").specifier)
    assert (metadata.license_expression, metadata.license_files) == ("Apache-2.0", ["LICENSE"])
    assert described(wheels[name], "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description.strip() == (ROOT / source.readme).read_text().strip()
    assert set(metadata.requires_dist) == requirements_of(ROOT / source.requires)
    assert tuple(metadata.provides_extra or ()) == source.extras
    assert "Root-Is-Purelib: true\nTag: py3-none-any\n" in described(wheels[name], "WHEEL")


def test_slipway_installs_one_command_and_the_client_none(wheels):
    points = ConfigParser()
    points.read_string(described(wheels["slipway"], "entry_points.txt"))
    assert {section: dict(points[section]) for section in points.sections()} == {
        "console_scripts": {"slipway": "clients.cli.main:main"}
    }
    assert callable(command_line.main)
    assert described(wheels["slipway_client"], "entry_points.txt") == ""


def test_the_client_holds_itself_and_the_contracts_only(wheels):
    """With `py.typed`: its types are for the code that calls it."""
    names = names_in(wheels["slipway_client"])
    expected = {"slipway_client/py.typed"}
    for folder, package in (("clients/training", "slipway_client"), ("contracts", "slipway_client/contracts")):
        expected |= {name.replace(folder, package, 1) for name in tracked(f"{folder}/*.py")}
    assert {name for name in names if ".dist-info/" not in name} == expected - {"slipway_client/setup.py"}
    with zipfile.ZipFile(wheels["slipway_client"]) as archive:
        sources = "".join(archive.read(name).decode() for name in names if name.endswith(".py"))
    assert "clients.training" not in sources
    assert "from contracts" not in sources


def test_slipway_holds_its_packages_with_their_data_and_neither_tests_nor_tools(wheels):
    names = {name for name in names_in(wheels["slipway"]) if not re.match(r"slipway-[^/]+\.dist-info/", name)}
    ours = {"contracts", "decisions", "shared", "services", "clients", "deploy"}
    expected = {
        name for name in tracked("*.py", *DATA) if name.partition("/")[0] in ours and not name.startswith(TOOLS)
    }
    expected.discard("clients/training/setup.py")
    assert len(expected) > 800
    assert names == expected


def test_the_console_finds_its_pages_and_its_styles_in_the_wheel(wheels, tmp_path):
    with zipfile.ZipFile(wheels["slipway"]) as archive:
        archive.extractall(tmp_path)
    printed = output_of([sys.executable, "-c", f"FOLDER = {str(tmp_path)!r}\n{SHOW}"], tmp_path)
    assert re.fullmatch(r"\[200, 200, 200, 404\]\nTrue [0-9a-f]{12}\n", printed), printed


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
