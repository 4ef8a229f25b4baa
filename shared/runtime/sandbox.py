"""Drops the rights of a process before it parses a file from outside; standard library only.

The parent protects its keys (`hide_memory`, `clean_environment`); the child calls `enter` before it opens the file.
`python -m shared.runtime.sandbox` enters and prints the protections of this machine.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.runtime import seccomp
from shared.runtime.seccomp import UnavailableError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls of Landlock, with the same numbers on all processors."""
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
"""No symbolic links, pipes or sockets, which the parent might open. Links and moves only between writable folders."""
WRITE = READ | _WRITE_FILE | _TRUNCATE | CREATE
DEVICE = _READ_FILE | _WRITE_FILE | _DEVICE_CONTROL
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_CONTROL
"""Rights that apply to files."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the kernel's version of Landlock; 0 without it."""
    version = _libc().syscall(_CREATE_RULESET, None, 0, _VERSION)
    return int(version) if version > 0 else 0


def restrict(read: Iterable[Path], write: Iterable[Path], devices: Iterable[Path] = ()) -> None:
    """Restrict the process to these files and folders; missing paths are ignored.

    Also refuses TCP, abstract Unix sockets and signals to other processes, if the kernel supports that. The calling
    thread must be the only one.

    Raises:
        UnavailableError: The kernel has no Landlock, or other threads run already.
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


NETWORK_NAMESPACE = "SLIPWAY_CHILD_NAMESPACE"
"""Variable that `launch` sets: `yes`, or why there is no namespace."""
SETTING, REQUIRED = "SLIPWAY_SANDBOX", "required"
"""Setting that refuses work in an incomplete sandbox; by default that is logged."""
OPEN_FILES = 1024
_PROBE_S = 30.0
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 4, 24, 38, 39
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION = 0x20080522
_KEPT = frozenset(
    {
        "PATH",
        "LANG",
        "TZ",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "DO_NOT_TRACK",
        SETTING,
        "TOKENIZERS_PARALLELISM",
    }
)
_KEPT_PREFIXES = (
    *("LC_", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "ONEDNN_", "DNNL_", "MALLOC_", "CUDA_", "NVIDIA_"),
    *("TORCH_", "PYTORCH_", "TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE", "TQDM_", "COVERAGE_"),
)
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/opt/nvidia", "/proc/self", "/proc/cpuinfo", "/proc/meminfo"),
    *("/proc/stat", "/proc/sys/vm", "/proc/filesystems", "/proc/driver/nvidia", "/sys/devices", "/sys/fs/cgroup"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/etc/mime.types", "/dev/urandom", "/dev/random"),
)
_DEVICES = ("/dev/null", "/dev/zero")


@dataclass(frozen=True)
class Protection:
    """The protections of a process: `yes`, or the reason why one is missing.

    Attributes:
        no_new_privs: Executed programs gain no rights.
        no_capabilities: No capabilities, also as root.
        seccomp: No sockets, programs, new or other processes, namespaces, kernel interfaces.
        landlock: No files but its own.
        namespace: A network without interfaces.
    """

    no_new_privs: str
    no_capabilities: str
    seccomp: str
    landlock: str
    namespace: str

    def missing(self) -> dict[str, str]:
        """Return the missing protections, each with its reason."""
        return {name: value for name, value in asdict(self).items() if value != "yes"}


def hide_memory() -> None:
    """Hide memory and environment of this process from other processes of the same user, and from core files."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def clean_environment(scratch: Path | None = None) -> dict[str, str]:
    """Return the variables of this process that a child may see, by an allowlist without keys.

    `scratch` is the folder for its temporary files.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (name.startswith(_KEPT_PREFIXES) and not any(part in name for part in _SECRET))
    }
    folder = {} if scratch is None else dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME"), str(scratch))
    return {**kept, **folder, "PYTHONDONTWRITEBYTECODE": "1"}


def enter(read: Iterable[Path] = (), write: Iterable[Path] = ()) -> Protection:
    """Restrict this process permanently, and return its protections.

    It can then read its code, the libraries, `read` and `write`, and write below `write` only. Call it before other
    threads start; open descriptors stay usable.
    """
    hide_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return Protection(
        no_new_privs=_no_new_privs(),
        no_capabilities=_drop_capabilities(),
        landlock=_restrict_files(read, write),
        seccomp=_deny_calls(),
        namespace=os.environ.get(NETWORK_NAMESPACE, "not started with one"),
    )


def _no_new_privs() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return "yes" if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 else "the kernel refuses it"


def _drop_capabilities() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(64):  # so that no program regains them; fails without CAP_SETPCAP, which has none to lose
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        return os.strerror(ctypes.get_errno())
    return "yes"


def _restrict_files(read: Iterable[Path], write: Iterable[Path]) -> str:
    devices = [*map(Path, _DEVICES), *Path("/dev").glob("nvidia*")]
    try:
        restrict([*code_paths(), *map(Path, _SYSTEM), *read], write, devices)
    except UnavailableError as error:
        return str(error)
    return "yes"


def _deny_calls() -> str:
    try:
        seccomp.deny()
    except UnavailableError as error:
        return str(error)
    return "yes"


def code_paths() -> list[Path]:
    """Return the folders of the Python environment and of each package on `sys.path`.

    Not their parent folder, which in a checkout also has the state of an embedded stack.
    """
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    paths = [*prefixes, Path(sys.prefix)]
    for entry in map(Path, filter(None, sys.path)):
        folder = entry.resolve()
        if (
            folder.is_file()
            or any(folder.is_relative_to(prefix) for prefix in prefixes)
            or folder.name.endswith("-packages")
        ):
            paths.append(folder)
        elif folder.is_dir():
            paths += [child for child in folder.iterdir() if (child / "__init__.py").is_file()]
    return paths


def probe() -> Protection:
    """Start a sandboxed child process, and return its protections."""
    from shared.runtime.process import child_command  # not above: it needs more than the standard library

    done = subprocess.run(
        child_command([sys.executable, "-m", "shared.runtime.sandbox"], alone=True),
        env={**clean_environment(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        check=True,
        timeout=_PROBE_S,
    )
    return Protection(**json.loads(done.stdout))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(enter())) + "\n")
