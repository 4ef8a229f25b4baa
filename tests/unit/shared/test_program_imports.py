"""A program imports without the search for garbage, and without what it never calls; a mere import changes nothing."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime.program_imports import import_program

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "from shared.runtime.program_imports import begin_imports\nbegin_imports()\n"
LOADED = """
import sys
import minio, structlog
from shared.runtime.program_imports import finish_imports
before = [name in sys.modules for name in ("rich.console", "Crypto")]
finish_imports()
import rich.console
from minio.minioadmin import MinioAdmin
print(*before, MinioAdmin.__module__)
"""
PROGRAM = """
import gc
from shared.runtime.program_imports import finish_imports
imported = gc.isenabled()
finish_imports()
print(imported, gc.isenabled(), gc.get_freeze_count() > 1000)
"""


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (("-m", "package.program"), "False True True"),
        (("-c", "import package.program"), "True True True"),
        (("importer.py",), "True True True"),
    ],
)
def test_only_a_module_that_runs_as_the_program_is_imported_without_the_search(tmp_path, options, printed):
    assert run(tmp_path, PROGRAM, *options) == printed


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (("-m", "package.program"), "False False minio.minioadmin"),
        (("-c", "import package.program"), "True True minio.minioadmin"),
    ],
)
def test_only_such_a_module_leaves_out_what_it_never_calls_and_finds_it_once_it_runs(tmp_path, options, printed):
    assert run(tmp_path, LOADED, *options) == printed


def run(folder, program, *options):
    """Return what a module of a package whose programs import less prints."""
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "program.py").write_text(program)
    (folder / "importer.py").write_text("import package.program")
    done = subprocess.run(
        [sys.executable, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_an_import_that_fails_leaves_the_search_on():
    with pytest.raises(ModuleNotFoundError):
        import_program("services.nothing_of_this_name")
    assert gc.isenabled()
