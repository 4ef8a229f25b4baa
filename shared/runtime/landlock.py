"""Limits which files this process can open, by Landlock; standard library only, because restricted scripts load it."""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls; their numbers are the same on all processors."""
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FOLDER, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_FOLDER, _MAKE_FILE = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _DEVICE_CONTROL = 1 << 13, 1 << 14, 1 << 15
_FILES_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11
_TCP_ABI, _SCOPE_ABI = 4, 6
_SIGNALS_AND_ABSTRACT_SOCKETS = 0b11
READ = _READ_FILE | _READ_FOLDER
CREATE = _REMOVE_FOLDER | _REMOVE_FILE | _MAKE_FOLDER | _MAKE_FILE | _REFER
"""No symbolic links, pipes and sockets: the parent may open what it finds there. Links and moves are possible only
between folders that may be changed both."""
WRITE = READ | _WRITE_FILE | _TRUNCATE | CREATE
DEVICE = _READ_FILE | _WRITE_FILE | _DEVICE_CONTROL
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_CONTROL
"""Rights that a rule for a file, not a folder, may have."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


class UnavailableError(Exception):
    """Files cannot be limited on this machine; the message says why."""


def abi() -> int:
    """Return the version of Landlock that the kernel has; 0 if it has none, or if it is switched off."""
    version = _libc().syscall(_CREATE_RULESET, None, 0, _VERSION)
    return int(version) if version > 0 else 0


def restrict(read: Iterable[Path], write: Iterable[Path], devices: Iterable[Path] = ()) -> None:
    """Restrict the process to these files, and to files below these folders; missing paths are left out.

    Where the kernel can, it also refuses TCP, abstract Unix sockets and signals to processes outside.
    The calling thread must be the only one.

    Raises:
        UnavailableError: The kernel has no Landlock, or other threads run already, which it would not cover.
    """
    version = abi()
    if not version:
        raise UnavailableError("the kernel has no Landlock (Linux 5.13, in its list `lsm=`)")
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise UnavailableError("other threads run already")
    libc = _libc()
    handled = _FILES_OF_ABI[min(version, max(_FILES_OF_ABI))]
    rules = _Ruleset(
        handled, _TCP if version >= _TCP_ABI else 0, _SIGNALS_AND_ABSTRACT_SOCKETS if version >= _SCOPE_ABI else 0
    )
    size = 8 if version < _TCP_ABI else 16 if version < _SCOPE_ABI else 24
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0))
    try:
        for paths, access in ((read, READ), (write, WRITE), (devices, DEVICE)):
            for path in paths:
                _allow(libc, ruleset, path, access & handled)
        _checked(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathBeneath(access if path.is_dir() else access & _OF_FILES, parent)
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(parent)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise UnavailableError(f"Landlock was refused: {os.strerror(ctypes.get_errno())}")
    return result
