"""Resolve the requirements into locks, every file with its hashes; `--check` compares locks with inputs, offline.

    python -m deploy.setup.locks [--check] [--upgrade PACKAGE …]

Locks keep their versions as far as the inputs allow.
`--upgrade` names packages that may move. torch is in locks of its own, because its build differs between machines:
requirements/torch-*.txt.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".tools/bin/uv"
TORCH = re.compile(r"torch|torchvision|nvidia-(cu|nccl|nv(jitlink|shmem|tx)).*|cuda-.*")
"""torch, and the CUDA libraries that its build for CUDA names exactly."""
HEADER = re.compile(r"# made by `make locks`; inputs sha256:(?P<inputs>\w{64}), pins sha256:(?P<pins>\w{64})\n")
HASH = r" \\\n    --hash=sha256:[0-9a-f]{64}"
ENTRY = re.compile(rf"^(?P<name>[\w.-]+)==(?P<version>[^\s\\;]+)(?P<marker> ; [^\\\n]+?)?(?:{HASH})+\n", re.MULTILINE)


@dataclass(frozen=True)
class Lock:
    """A lock and its inputs; paths are relative to the repository."""

    source: str
    target: str
    pythons: tuple[str, ...]
    """Versions of Python, which must agree on the version of each package."""
    overrides: str | None = None
    constraints: str | None = None
    torch: bool | None = False
    """Whether it has torch's packages: False for none of them, True for nothing else, None for all packages."""
    platform: str = "x86_64-manylinux_2_28"

    def inputs(self, root: Path) -> list[Path]:
        """Return the files that decide the resolution, including nested ones."""
        files = [root / self.source]
        for path in files:  # grows while it is read
            files += [path.parent / name for name in re.findall(r"^-r (\S+)", path.read_text(), re.MULTILINE)]
        return files + [root / name for name in (self.overrides, self.constraints) if name]


ALL = ("3.11", "3.12", "3.13")
ENGINE = ("3.11", "3.12")
FOLDER, IMAGES = "requirements", "deploy/docker/requirements"
MAIN, MAIN_OVERRIDES = f"{FOLDER}/main.txt", f"{FOLDER}/main-overrides.txt"


def _lock(name: str, pythons: tuple[str, ...], *others: Any, source: str = "", **fields: Any) -> Lock:
    return Lock(f"{FOLDER}/{source or name}.in", f"{FOLDER}/{name}.txt", pythons, *others, **fields)


LOCKS = (
    _lock("main", ALL, MAIN_OVERRIDES, source="dev"),
    _lock("engine", ENGINE, f"{FOLDER}/engine-overrides.txt", platform="x86_64-manylinux_2_35"),  # as Triton's wheel
    _lock("torch-cuda", ALL, MAIN_OVERRIDES, MAIN, torch=True),
    _lock("torchvision-cuda", ENGINE, MAIN_OVERRIDES, MAIN, torch=True),
    _lock("engine-gpu", ("3.12",), f"{FOLDER}/engine-gpu-overrides.txt", torch=None),
    _lock("audit", ALL),
    _lock("mlflow", ALL, f"{FOLDER}/mlflow-overrides.txt"),
    _lock("wandb", ALL),
    _lock("charts", ALL),
    _lock("examples", ALL, MAIN_OVERRIDES, MAIN),
    _lock("client-oldest", ("3.9",), torch=None),
    _lock("client-newest", ("3.11",)),
    _lock("build", ALL, None, MAIN),
    _lock("build-oldest", ("3.9",), source="build"),
    _lock("uv", ALL),
    *(
        Lock(f"{IMAGES}/{name}.in", f"{IMAGES}/{name}.txt", ("3.11",), MAIN_OVERRIDES, MAIN)
        for name in ("light", "serving", "answers", "models", "tools", "console", "nats", "seaweedfs")
    ),
    Lock(f"{IMAGES}/reports.in", f"{IMAGES}/reports.txt", ("3.11",), f"{IMAGES}/reports-overrides.txt", MAIN),
    Lock(
        f"{IMAGES}/triton.in",
        f"{IMAGES}/triton.txt",
        ("3.11",),
        f"{FOLDER}/engine-overrides.txt",
        f"{FOLDER}/engine.txt",
        platform="x86_64-manylinux_2_35",
    ),
)


class Unresolved(Exception):  # noqa: N818 - the sentence is the point
    """The requirements have no resolution that holds for every Python."""


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    name: str
    version: str
    text: str
    """The entry with its hashes, as it stands in the file."""


def read_pins(text: str) -> list[Pin]:
    """Return the entries of a lock; an entry has an exact version and at least one hash.

    Raises:
        ValueError: a line belongs to no entry.
    """
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    rest = ENTRY.sub("", body).strip()
    if rest:
        raise ValueError(f"{rest.splitlines()[0]!r} has no exact version or no hash")
    return [Pin(canonicalize_name(match["name"]), match["version"], match[0]) for match in ENTRY.finditer(body)]


def digest_of_inputs(lock: Lock, root: Path) -> str:
    """Return the SHA-256 of the inputs' contents, in order."""
    digest = hashlib.sha256()
    for path in lock.inputs(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def render(lock: Lock, pins: list[Pin], root: Path) -> str:
    """Return the text of a lock, with the digests that `--check` compares."""
    body = "".join(pin.text for pin in pins)
    pinned = hashlib.sha256(body.encode()).hexdigest()
    return f"# made by `make locks`; inputs sha256:{digest_of_inputs(lock, root)}, pins sha256:{pinned}\n{body}"


def resolve(lock: Lock, upgrade: list[str]) -> list[Pin]:
    """Ask uv for the versions and hashes of a lock, for each of its Pythons.

    Raises:
        Unresolved: uv finds no resolution, or needs two versions of a package.
    """
    earlier = ROOT / lock.target
    known = earlier.read_text() if earlier.is_file() else ""
    results = {python: _compile(lock, python, known, upgrade) for python in lock.pythons}
    union: dict[str, Pin] = {}
    for python, pins in results.items():
        for pin in pins:
            if union.setdefault(pin.name, pin) != pin:
                raise Unresolved(f"{lock.target}: Python {lock.pythons[0]} and {python} need different {pin.name}")
    needed = {name: [python for python, pins in results.items() if union[name] in pins] for name in sorted(union)}
    return [_only(union[name], pythons, lock) for name, pythons in needed.items()]


def _only(pin: Pin, pythons: list[str], lock: Lock) -> Pin:
    """Return a pin that holds for some of a lock's Pythons."""
    if tuple(pythons) == lock.pythons:
        return pin
    marker = " or ".join(f"python_version == '{python}'" for python in pythons)
    head = f"{pin.name}=={pin.version}"
    return Pin(pin.name, pin.version, pin.text.replace(head, f"{head} ; {marker}", 1))


def _compile(lock: Lock, python: str, known: str, upgrade: list[str]) -> list[Pin]:
    command = [str(UV), "pip", "compile", "--quiet", "--no-config", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--python-platform", lock.platform]
    command += ["--override", lock.overrides] if lock.overrides else []
    command += ["--constraint", lock.constraints] if lock.constraints else []
    command += [word for name in upgrade for word in ("--upgrade-package", name)]
    preferred = (
        ROOT / ".make/locks" / f"{Path(lock.target).stem}-{python}.txt"
    )  # uv prefers the versions that it finds there
    preferred.parent.mkdir(parents=True, exist_ok=True)
    preferred.write_text(known)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UV_")}
    if "PIP_INDEX_URL" in environment:
        environment["UV_DEFAULT_INDEX"] = environment["PIP_INDEX_URL"]
    done = subprocess.run(
        [*command, "--output-file", str(preferred), lock.source],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unresolved(f"{lock.target}, Python {python}:\n{done.stderr.strip()}")
    pins = read_pins(preferred.read_text())
    return [pin for pin in pins if lock.torch is None or bool(TORCH.fullmatch(pin.name)) == lock.torch]


def findings(root: Path = ROOT) -> list[str]:
    """Return the locks that differ from their inputs, or were edited by hand; offline."""
    wrong = []
    for lock in LOCKS:
        path = root / lock.target
        text = path.read_text() if path.is_file() else ""
        if HEADER.match(text) is None:
            wrong.append(f"{lock.target}: missing, or without its header")
        elif text != render(lock, read_pins(text), root):
            wrong.append(f"{lock.target}: its inputs have changed, or it was edited by hand")
    return wrong


def main() -> None:
    """Write the locks again, or compare them with `--check`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare locks with inputs, offline")
    parser.add_argument("--upgrade", nargs="*", default=[], metavar="PACKAGE", help="packages that may move")
    options = parser.parse_args()
    if not options.check:
        for lock in LOCKS:
            try:
                (ROOT / lock.target).write_text(render(lock, resolve(lock, options.upgrade), ROOT))
            except Unresolved as error:
                sys.exit(str(error))
    if wrong := findings():
        sys.exit("\n".join((*wrong, "Run `make locks` and commit the result.")))


if __name__ == "__main__":
    main()
