"""`deploy/setup/environment.sh` chooses an interpreter: with stand-ins for interpreters and uv, nothing is installed."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("basename", "bash", "env", "cat", "cut", "sha256sum", "dirname", "touch", "mkdir", "rm")
PYTHON = """#!/bin/bash
[ "$1" = -c ] && echo "{version}"
"""
BROKEN = """#!/bin/bash
echo "not in this version" >&2; exit 127
"""
UV = """#!/bin/bash
echo "$*" >> uv.log
[ "$1 $2" = "python install" ] && [ -e offline ] && exit 2
[ "$1 $2" = "python find" ] && echo managed/bin/python3.11
[ "$1" = venv ] && mkdir -p "${!#}"
exit 0
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("requirements", "deploy/setup"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        program_path = shutil.which(tool)
        assert program_path is not None
        (tmp_path / "bin" / tool).symlink_to(program_path)
    program(tmp_path / ".tools/bin/uv", UV)
    program(tmp_path / ".tools/bin/python", BROKEN)
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(checkout: Path, name: str, *given: str, **pythons: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only these interpreters are on PATH: command=version, or `broken`."""
    for command, version in pythons.items():
        text = BROKEN if version == "broken" else PYTHON.format(version=version)
        program(checkout / "bin" / command.replace("_", "."), text)
    return subprocess.run(
        [str(checkout / "deploy/setup/environment.sh"), name, *given],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": str(checkout / "bin"), "HOME": os.environ.get("HOME", "/")},
    )


def used(checkout: Path) -> str:
    """Return the interpreter that the environment was made with."""
    lines = (checkout / "uv.log").read_text().splitlines()
    return next(line.split("--python ")[1].split()[0] for line in lines if line.startswith("venv"))


@pytest.mark.parametrize(
    ("name", "pythons", "chosen"),
    [
        ("main", {"python3_11": "3.11", "python3_13": "3.13", "python3": "3.13"}, "python3.11"),
        ("main", {"python3": "3.13"}, "python3"),
        ("main", {"python3_12": "broken", "python3_13": "3.13"}, "python3.13"),
        ("engine", {"python3_12": "3.12", "python3": "3.13"}, "python3.12"),
    ],
    ids=["the-lowest", "debian-13", "a-shim-that-does-not-run", "engine"],
)
def test_the_first_interpreter_that_fits_is_taken(checkout, name, pythons, chosen):
    done = make(checkout, name, **pythons)
    assert done.returncode == 0, done.stderr
    assert used(checkout) == str(checkout / "bin" / chosen)


def test_a_given_interpreter_gets_an_environment_beside_the_usual_one(checkout):
    program(checkout / "bin/python3.13", PYTHON.format(version="3.13"))
    done = make(checkout, "main", "python3.13")
    assert done.returncode == 0, done.stderr
    assert used(checkout) == "python3.13"
    assert (checkout / ".venv-python3.13").is_dir()


def test_where_none_fits_the_engine_gets_a_python_from_uv(checkout):
    done = make(checkout, "engine", python3="3.13")
    assert done.returncode == 0, done.stderr
    assert "python install --quiet 3.11" in (checkout / "uv.log").read_text()
    assert used(checkout) == "managed/bin/python3.11"


def test_a_download_that_fails_ends_with_what_to_install(checkout):
    (checkout / "offline").touch()
    done = make(checkout, "engine", python3="3.13")
    assert done.returncode == 1
    assert done.stderr == "Python 3.11 could not be downloaded; install one of Python 3.11, 3.12 and try again.\n"


def test_without_any_python_nothing_is_begun(checkout):
    shutil.rmtree(checkout / ".tools")
    done = make(checkout, "main", python3="3.8")
    assert done.returncode == 1
    assert done.stderr == "Slipway needs Python 3.11, 3.12 or 3.13; install one and try again.\n"


def test_a_second_run_is_over_at_once(checkout):
    assert make(checkout, "main", python3="3.12").returncode == 0
    assert make(checkout, "main").stdout == "environment .venv is up to date\n"
