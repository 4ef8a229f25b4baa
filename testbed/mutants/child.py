"""A process that runs tests on a mutant: forked from one that has imported all libraries, and nothing of ours.

The changed module is compiled from memory. No file of the checkout is written.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.mutants.changes import Mutant
from testbed.mutants.choice import PACKAGES, module_name

IMPORTING = [f"tests/unit/{name}" for name in ("decisions", "rollback_controller", "gateway")]
HANGS, MEMORY_BYTES, TEST_S = 3, 8 << 30, 60
OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "--tb=no",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "--no-header",
    "--snapshot-warn-unused",
    f"--timeout={TEST_S}",
)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds and loads one module from a text."""

    def __init__(self, mutant: Mutant) -> None:
        """Take a mutant."""
        self._name, self._file, self._text = module_name(mutant.file), mutant.file, mutant.mutated

    def find_spec(self, fullname, path, target=None):  # noqa: ARG002
        """Return how the changed module is loaded; None for all others."""
        return (
            importlib.util.spec_from_file_location(fullname, self._file, loader=self)
            if fullname == self._name
            else None
        )

    def get_filename(self, fullname):  # noqa: ARG002
        """Return the file that the module would be read from."""
        return str(Path(self._file).absolute())

    def get_data(self, path):
        """Return the text; a compiled form of the file is not used."""
        if path != self.get_filename(""):
            raise OSError(path)
        return self._text.encode()


@dataclass(eq=False)
class Watch:
    """Plugin that notes what fails, and starts no further test after some processor time."""

    limit_s: float
    report: int

    def pytest_runtest_logreport(self, report):
        """Note a failed test."""
        if report.failed:
            os.write(self.report, f"{report.nodeid}\n".encode())

    def pytest_collectreport(self, report):
        """Note a file that cannot be imported."""
        if report.failed:
            os.write(self.report, f"{report.nodeid}\n".encode())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        """Stop after the limit."""
        if time.process_time() > self.limit_s:
            item.session.shouldstop = "enough"


def fork(tests: list[str], mutant: Mutant | None, report: int, limit_s: float, *options: str) -> int:
    """Start tests in a process of its own, and return its id; what fails is written to a file descriptor."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(HANGS * limit_s), int(HANGS * limit_s) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        if mutant is not None:
            sys.meta_path.insert(0, Changed(mutant))
        os._exit(int(pytest.main([*OPTIONS, *options, *tests], plugins=[Watch(limit_s, report)])))
    finally:
        os._exit(70)


def import_libraries() -> None:
    """Import what tests and product import of others, as a first process found it."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(nothing, number)
        pytest.main([*OPTIONS, "--collect-only", *IMPORTING])
        others = [name for name in sys.modules if name.split(".")[0] not in (*PACKAGES, "conftest", "__main__")]
        os.write(writing, "\n".join(others).encode()[: 1 << 20])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as names:
        found = names.read().split("\n")
    os.waitpid(pid, 0)
    for name in found:
        if name not in sys.modules and importlib.util.find_spec(name.split(".")[0]) is not None:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
