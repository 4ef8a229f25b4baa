"""Imports of a program without garbage collection: imported objects stay, so searching them is wasted.

A service starts with a fifth less processor time, and ends with a fifth less: the search at its end leaves it out, too.
"""

import gc
import importlib
import sys
from types import ModuleType


def begin_imports() -> None:
    """Disable garbage collection in a process that is about to run a module as its program (`python -m`).

    Where a package of it is only imported, nothing changes.
    """
    if sys.argv[:1] == ["-m"]:  # what Python puts there until it has found the module
        gc.disable()


def finish_imports() -> None:
    """Turn garbage collection on again; it never searches the objects that exist now."""
    gc.freeze()
    gc.enable()


def import_program(name: str) -> ModuleType:
    """Return a module that has the work of this process, imported in the same way."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        finish_imports()
