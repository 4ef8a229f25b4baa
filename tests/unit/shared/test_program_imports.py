"""A program imports without the search for garbage, and works with it; a package that is only imported changes nothing."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime.program_imports import import_program

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "from shared.runtime.program_imports import begin_imports\nbegin_imports()\n"
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
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "program.py").write_text(PROGRAM)
    (tmp_path / "importer.py").write_text("import package.program")
    done = subprocess.run(
        [sys.executable, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == printed


def test_an_import_that_fails_leaves_the_search_on():
    with pytest.raises(ModuleNotFoundError):
        import_program("services.nothing_of_this_name")
    assert gc.isenabled()
