"""The worker's side of `shared.runtime.jobs`: run the work in this process, and report to the parent."""

import contextlib
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

from contracts.codes import Code
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.runtime import sandbox
from shared.runtime.program_imports import finish_imports

MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
OUT_OF_MEMORY_EXIT = 77
_OUT_OF_MEMORY_PHRASES = (
    "DefaultCPUAllocator",
    "not enough memory",
    "an't allocate memory",
    "annot allocate memory",
    "out of memory",
    "bad_alloc",
)
UNUSED = ("scipy", "sklearn")
"""Packages that transformers imports if installed, for functions that no worker calls."""
_STDOUT = 1
_protocol = _STDOUT


def report_progress(**fields: Any) -> None:
    """Send the progress of the work to the parent."""
    _send({"progress": fields})


def step_progress(step: str, unit: str) -> Any:
    """Return a function that reports progress of a step."""
    return lambda done, total: report_progress(step=step, done=done, total=total, unit=unit)


def confine(read: Iterable[Path] = (), write: Iterable[Path] = (), *, file_bytes: int | None = None) -> None:
    """Enter the sandbox; call it in a worker before other threads start and before a file from outside is opened.

    Args:
        read: Readable files and folders, beside the code.
        write: Writable folders.
        file_bytes: Size limit of written files; None for no limit.

    Raises:
        Transient: `internal_error` if `SLIPWAY_SANDBOX=required` and a protection is missing.
    """
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    missing = sandbox.enter(read, write).missing()
    for name, reason in missing.items():
        sys.stderr.write(f"this process runs without {name}: {reason}\n")
    if missing and os.environ.get(sandbox.SETTING) == sandbox.REQUIRED:
        names = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise Transient("internal_error", f"The sandbox of this work lacks {names}, and SLIPWAY_SANDBOX is required.")


def job_main(work: Callable[[list[str]], dict[str, Any]]) -> NoReturn:
    """Run a worker's function and send its result or error; output of libraries goes to standard error."""
    finish_imports()
    protocol = os.dup(1)
    os.dup2(2, 1)
    global _protocol  # noqa: PLW0603 - one channel to the parent per process
    _protocol = protocol
    try:
        _send({"result": work(sys.argv[1:])})
    except Exception as error:
        if is_out_of_memory(error):
            sys.exit(OUT_OF_MEMORY_EXIT)
        known = error if isinstance(error, SlipwayError) else translate(error)
        if known is None:
            raise
        _send(
            {
                "error": {
                    "code": known.code,
                    "reason": known.reason,
                    "details": known.details,
                    "transient": isinstance(known, Transient),
                }
            }
        )
        sys.exit(1)
    sys.exit(0)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import torch and its dependents without `UNUSED` and without garbage collection; outside of a worker do nothing.

    Saves a third of the time and a quarter of the memory.
    """
    if _protocol == _STDOUT:
        yield
        return
    sys.modules.update({name: cast("ModuleType", None) for name in UNUSED if name not in sys.modules})
    gc.disable()
    try:
        yield
    finally:
        finish_imports()


@contextlib.contextmanager
def limited_time(limit_s: float, code: Code, reason: str) -> Iterator[None]:
    """End this process with this error as its outcome if the block takes longer; for a worker's main thread.

    The kernel ends the process by SIGALRM, also inside a library (a backtracking regular expression). Outside of a
    worker there is no limit.
    """
    if _protocol == _STDOUT:
        yield
        return
    _send({"error": {"code": code, "reason": reason, "details": {}}, "at_alarm": True})
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, also of a library, means that memory ran out."""
    if isinstance(error, SlipwayError):
        return False
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES)


def _send(message: dict[str, Any]) -> None:
    line = json.dumps(message, default=str).encode()
    if len(line) > MESSAGE_LIMIT_BYTES:
        kind = next(iter(message))
        raise Permanent(
            "engine_failed",
            f"The worker's {kind} was not sent: it has {len(line)} bytes, the limit is {MESSAGE_LIMIT_BYTES}.",
        )
    os.write(_protocol, line + b"\n")
