"""Another version of Slipway, made of this one by a declared change: newer records, and fields that this one lacks."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from contracts.version import VERSION
from tests.kit.wiring import ROOT

PACKAGES = ("contracts", "decisions", "shared", "services", "clients", "deploy")
NEXT = f"{VERSION}+next"
_MIGRATIONS = "    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {}\n"
_RAISED = """
    added_later: str = "of the next version"

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "SCHEMA_VERSION" in cls.__dict__:
            cls.MIGRATIONS = {**cls.MIGRATIONS, cls.SCHEMA_VERSION: unchanged}
            cls.SCHEMA_VERSION += 1
"""
CHANGES: dict[str, tuple[tuple[str, str], ...]] = {
    "contracts/version.py": ((f'VERSION = "{VERSION}"', f'VERSION = "{NEXT}"'),),
    # every fact has one more optional field
    "contracts/facts/fact.py": (
        ("    TYPE: ClassVar[str]\n", '    TYPE: ClassVar[str]\n    added_later: str | None = "of the next version"\n'),
    ),
    # every kind of record has one more field, the next number, and a migration to it
    "contracts/stored.py": ((_MIGRATIONS, _MIGRATIONS + _RAISED),),
    # a request to the engine has one more optional field, which an older backend does not know
    "shared/serving/openai_stream.py": (
        (
            '        "method": request.method,\n',
            '        "method": request.method,\n        "added_later": {"n": 1},\n',
        ),
    ),
}
"""By file: texts, and what the next version has in their place."""


def checkout(commit: str, folder: Path) -> Path:
    """Write the packages of a commit of this repository into a folder, and return that."""
    archive = subprocess.run(["git", "archive", commit, *PACKAGES], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def make_next(folder: Path) -> Path:
    """Write the next version into a folder, and return that."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in CHANGES.items():
        path = folder / name
        text = path.read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{name} has {text.count(before)} of {before!r}"
            text = text.replace(before, after)
        path.write_text(text)
    return folder
