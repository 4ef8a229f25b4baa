"""Share the compiling of test modules in a fresh clone: each worker begins to import them at another one.

Else all workers compile each module at the same time, nine seconds of processor time in each. So a worker finds most of
them compiled by the others.
"""

import contextlib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest


def turned(names: Sequence[str], worker: int, workers: int) -> list[str]:
    """Return the names in their order, but from that on with which a worker begins."""
    begin = len(names) * worker // workers
    return [*names[begin:], *names[:begin]]


def modules_below(paths: Iterable[Path], root: Path) -> list[str]:
    """Return the names of the test modules in files and folders; those of packages, which pytest names otherwise, are left out."""
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))}
    alone = (file for file in files if not (file.parent / "__init__.py").exists())
    return [".".join(file.relative_to(root).with_suffix("").parts) for file in sorted(alone)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Import the test modules of the run in a worker before they are collected, which tells of those that fail."""
    own = getattr(session.config, "workerinput", None)
    if own is None:
        return
    root = session.config.rootpath
    paths = [root / argument.split("::")[0] for argument in session.config.args]
    worker = int(own["workerid"].removeprefix("gw"))
    for name in turned(modules_below(paths, root), worker, own["workercount"]):
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)
