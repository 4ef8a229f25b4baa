"""Imports of a program with less work: without the search for garbage, and without what no program of ours calls.

A service starts with a third less processor time, and ends with a fifth less: the search at its end leaves out what was
imported, since that stays and is searched through in vain.
"""

import gc
import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import cast

UNUSED: Mapping[str, tuple[str, ...]] = MappingProxyType({"rich": (), "minio.minioadmin": ("MinioAdmin",)})
"""What libraries import for functions that no program calls, and the names that they import from it.

structlog imports rich to show exceptions on a terminal (our logs are JSON), minio its client of another server's
administration, with two libraries of ciphers. Where names are listed, the import must succeed: each name is None.
"""
_left_out: dict[str, ModuleType | None] = {}


def begin_imports() -> None:
    """Import less, without the search for garbage, in a process that begins to run a module (`python -m`).

    Where a package of it is only imported, nothing changes.
    """
    if sys.argv[:1] == ["-m"]:  # what Python puts there until it has found the module
        gc.disable()
        _leave_out()


def finish_imports() -> None:
    """Search for garbage again, but never among what is there now; what was left out can be imported from now on."""
    _take_back()
    gc.freeze()
    gc.enable()


def import_program(name: str) -> ModuleType:
    """Return a module that has the work of this process, imported in the same way."""
    gc.disable()
    _leave_out()
    try:
        return importlib.import_module(name)
    finally:
        finish_imports()


def _leave_out() -> None:
    """Let no import find `UNUSED`, unless it is there already."""
    for name, members in UNUSED.items():
        if name in sys.modules:
            continue
        module = None
        if members:
            module = ModuleType(name)
            module.__dict__.update(dict.fromkeys(members))
        sys.modules[name] = cast("ModuleType", module)
        _left_out[name] = module


def _take_back() -> None:
    """Let imports find again what was left out."""
    for name, module in _left_out.items():
        if name in sys.modules and sys.modules[name] is module:
            del sys.modules[name]
    _left_out.clear()
