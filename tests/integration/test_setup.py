"""`deploy/setup/environment.sh` chooses an interpreter and a build of torch: with stand-ins for interpreters and uv.

The last tests install tiny wheels with the real uv: what has another hash than the lock is refused.
"""

import base64
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    "basename",
    "bash",
    "env",
    "cat",
    "cut",
    "grep",
    "sha256sum",
    "dirname",
    "touch",
    "mkdir",
    "rm",
    "flock",
    "sleep",
)
PYTHON = """#!/bin/bash
case "$2" in *%d.%d*) echo "{version}" ;; *%d%d*) version={version}; echo "${{version/./}}" ;; esac
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


def make(
    checkout: Path, name: str, *given: str, variables: dict[str, str] | None = None, **pythons: str
) -> subprocess.CompletedProcess[str]:
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
        env={"PATH": str(checkout / "bin"), "HOME": os.environ.get("HOME", "/"), **(variables or {})},
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


def test_of_two_that_begin_at_the_same_time_one_makes_it_and_the_other_waits(checkout):
    program(checkout / ".tools/bin/uv", UV.replace("exit 0", 'case "$*" in *charts.txt*) sleep 1 ;; esac; exit 0'))
    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(lambda _: make(checkout, "charts", python3="3.12"), range(2)))
    assert [end.returncode for end in ends] == [0, 0], ends
    assert sorted(end.stdout.splitlines()[-1] for end in ends) == [
        "environment .venv-charts is ready",
        "environment .venv-charts is up to date",
    ]
    assert (checkout / "uv.log").read_text().count("venv --quiet") == 1


def test_a_given_interpreter_gets_an_environment_beside_the_usual_one(checkout):
    program(checkout / "bin/python3.13", PYTHON.format(version="3.13"))
    done = make(checkout, "main", "python3.13")
    assert done.returncode == 0, done.stderr
    assert Path(used(checkout)).name == "python3.13"
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


# -- what is installed, and from where -------------------------------------------------------------------------------------


def installs(checkout: Path) -> list[str]:
    """Return what uv was asked to install, without the project itself."""
    lines = (checkout / "uv.log").read_text().splitlines()
    return [line for line in lines if line.startswith("pip install") and not line.endswith(" -e .")]


def build_of_torch(checkout: Path, name: str, *, listed: bool) -> Path:
    """Put a file into a folder of wheels, and its hash into the lock if it is listed."""
    wheel = checkout / "wheels" / f"{name}-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    wheel.parent.mkdir(exist_ok=True)
    wheel.write_bytes(name.encode())
    lock = checkout / f"requirements/{name}-cpu.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if listed:
        lock.write_text(lock.read_text().rstrip() + f" \\\n    --hash=sha256:{digest}\n")
    return wheel


@pytest.mark.parametrize(
    ("name", "locks"),
    [
        ("main", ["torch-cuda", "main"]),
        ("engine", ["torch-cuda", "torchvision-cuda", "engine"]),
        ("audit", ["audit"]),
        ("examples", ["torch-cuda", "examples"]),
        ("client-newest", ["torch-cuda", "client-newest"]),
    ],
)
def test_everything_is_installed_from_locks_and_nothing_beside_them(checkout, name, locks):
    done = make(checkout, name, python3_11="3.11", variables={"UV_CONSTRAINT": "elsewhere.txt"})
    assert done.returncode == 0, done.stderr
    asked = installs(checkout)
    assert [line.rpartition("requirements/")[2] for line in asked] == [f"{lock}.txt" for lock in locks]
    assert all("--require-hashes" in line and "--no-deps" in line for line in asked)
    assert all("--build-constraints requirements/build.txt" in line for line in asked)


@pytest.mark.parametrize("where", ["{}", "file://{}", "elsewhere {}"])
def test_a_build_for_cpus_that_is_in_the_lock_is_taken_from_the_folder_of_wheels(checkout, where):
    folder = build_of_torch(checkout, "torch", listed=True).parent
    done = make(checkout, "main", python3_11="3.11", variables={"PIP_FIND_LINKS": where.format(folder)})
    assert done.returncode == 0, done.stderr
    assert "--no-index -r requirements/torch-cpu.txt" in installs(checkout)[0]


def test_a_build_for_cpus_with_another_hash_is_named_and_not_used(checkout):
    wheel = build_of_torch(checkout, "torch", listed=False)
    done = make(checkout, "main", python3_11="3.11", variables={"PIP_FIND_LINKS": str(wheel.parent)})
    assert f"{wheel} is not used: its hash is not in requirements/torch-cpu.txt" in done.stdout
    assert "requirements/torch-cuda.txt" in installs(checkout)[0]
    assert "--no-index" not in installs(checkout)[0]


def test_a_build_for_another_python_is_not_taken(checkout):
    folder = build_of_torch(checkout, "torch", listed=True).parent
    make(checkout, "main", python3_12="3.12", variables={"PIP_FIND_LINKS": str(folder)})
    assert "requirements/torch-cuda.txt" in installs(checkout)[0]


def test_the_engine_takes_builds_for_cpus_of_both_or_of_neither(checkout):
    folder = build_of_torch(checkout, "torch", listed=True).parent
    make(checkout, "engine", python3_11="3.11", variables={"PIP_FIND_LINKS": str(folder)})
    assert ["-cuda.txt" in line for line in installs(checkout)[:2]] == [True, True]


@pytest.mark.parametrize(
    ("build", "first"),
    [
        ("cpu", "--default-index https://download.pytorch.org/whl/cpu -r requirements/torch-cpu.txt"),
        ("cuda", "-r requirements/torch-cuda.txt"),
    ],
)
def test_a_build_can_be_asked_for_and_is_made_anew_then(checkout, build, first):
    folder = build_of_torch(checkout, "torch", listed=True).parent
    links = {"PIP_FIND_LINKS": str(folder)}
    make(checkout, "main", python3_11="3.11", variables=links)
    (checkout / "uv.log").unlink()
    done = make(checkout, "main", variables={**links, "SLIPWAY_TORCH": build})
    assert done.returncode == 0, done.stderr
    assert installs(checkout)[0].endswith(first)


def test_an_unknown_build_is_refused(checkout):
    done = make(checkout, "main", python3_11="3.11", variables={"SLIPWAY_TORCH": "rocm"})
    assert done.returncode == 2
    assert done.stderr == "environment.sh: SLIPWAY_TORCH is cpu, cuda or empty, not 'rocm'\n"


# -- with the real uv ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(checkout):
    """A checkout whose third environment is one tiny wheel, in a folder; its lock is right."""
    (checkout / ".tools/bin/uv").unlink()
    (checkout / ".tools/bin/uv").symlink_to(ROOT / ".tools/bin/uv")
    wheel = tiny_wheel(checkout / "wheels", "print('as locked')")
    lock = f"slipway-tiny==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    (checkout / "requirements/audit.txt").write_text(lock)
    return checkout


def tiny_wheel(folder: Path, code: str) -> Path:
    folder.mkdir(exist_ok=True)
    info = "slipway_tiny-1.0.dist-info"
    files = {
        "slipway_tiny.py": code,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: slipway-tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digests[name]},{len(text)}\n" for name, text in files.items())
    path = folder / "slipway_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return path


def make_small(checkout: Path) -> subprocess.CompletedProcess[str]:
    links = {"PIP_FIND_LINKS": str(checkout / "wheels"), "UV_OFFLINE": "1", "UV_CACHE_DIR": str(checkout / "cache")}
    interpreter = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (checkout / "bin" / interpreter).symlink_to(sys.executable)
    return make(checkout, "audit", variables=links)


def test_what_the_lock_names_is_installed_also_over_an_environment_of_an_earlier_kind(small):
    uv = [ROOT / ".tools/bin/uv", "venv", "--quiet", "--offline", "--python", sys.executable, small / ".venv-audit"]
    subprocess.run(uv, check=True, timeout=60)
    (site,) = (small / ".venv-audit/lib").glob("python3.*/site-packages")
    program(site / "left_over.py", "")
    (small / ".venv-audit/.stamp-0123456789abcdef").touch()
    done = make_small(small)
    assert done.returncode == 0, done.stderr
    run = subprocess.run(
        [small / ".venv-audit/bin/python", "-m", "slipway_tiny"], capture_output=True, text=True, check=True
    )
    assert run.stdout == "as locked\n"
    assert not (small / ".venv-audit/.stamp-0123456789abcdef").exists()
    assert list((small / ".venv-audit").rglob("left_over.py")) == []


def test_a_file_with_another_hash_is_refused(small):
    tiny_wheel(small / "wheels", "print('something else')")
    done = make_small(small)
    assert done.returncode != 0
    assert "hash mismatch" in done.stderr.lower()
    assert not list((small / ".venv-audit").glob(".stamp-*"))


def test_a_package_without_a_hash_is_refused(small):
    (small / "requirements/audit.txt").write_text("slipway-tiny==1.0\n")
    done = make_small(small)
    assert done.returncode != 0
    assert "--require-hashes" in done.stderr
