"""Programs of ours, forked from a process that has imported what they have in common: the cheap `python -m` of tests.

A fork takes a fifth of the processor time of a start. It is a process of its own, with its environment, folder, output,
signals and exit code, and ends with the process that started it. Its command line is that of the process that forks.
`allow` permits it; benchmarks, and tests of the start itself, run `python -m`.
"""

import atexit
import contextlib
import ctypes
import gc
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver
from pathlib import Path

import psutil

from shared.runtime.launch import PR_SET_PDEATHSIG
from shared.runtime.process import child_command

PRELOADED = (
    "clients.cli.command_list",
    "clients.cli.connection",
    "contracts.provenance.audit",
    "contracts.facts",
    "contracts.records",
    "contracts.runtimes",
    "contracts.storage.access",
    "decisions.evidence.triggers",
    "decisions.rollback.suspensions",
    "decisions.routes.edits",
    "httpx",
    "shared.messaging.bus",
    "shared.messaging.records",
    "shared.provenance.attestations",
    "shared.provenance.audit_log",
    "shared.runtime.sandbox",
    "shared.runtime.service",
    "shared.storage.blobs",
)
"""What services and commands import in common. None runs as a program, starts a thread or reads the environment when it
is imported; numpy and grpc do."""

ROOT = Path(__file__).resolve().parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, *PRELOADED])
_LOCK = threading.Lock()
"""Whatever reads an exit code holds it: it can be read once, and each start reads those of all that have ended."""
_IMPORTED_BY = os.getpid()
_running: set["ForkedProcess"] = set()
_allowed = False


def allow() -> None:
    """Let `start` fork programs from now on."""
    global _allowed  # noqa: PLW0603 - one setting of a process, which a run of the tests sets once
    _allowed = True


def start(
    command: Sequence[str], log: Path, *, environment: Mapping[str, str], forked: bool = True
) -> "subprocess.Popen[bytes] | ForkedProcess":
    """Run a program that ends with this process, its output appended to a file.

    Args:
        command: the program and its arguments; `python -m MODULE` is forked where that is allowed.
        log: the file.
        environment: all variables that it gets.
        forked: False for a program that must be started as a new process.
    """
    if forked and may_fork(command, environment):
        return ForkedProcess(command[2:], environment=environment, cwd=Path.cwd(), stdout=log, stderr=log)
    with log.open("ab") as output:
        return subprocess.Popen(child_command(command), stdout=output, stderr=output, env=environment)


def run(
    command: Sequence[str], *, environment: Mapping[str, str], cwd: Path, timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Return how a program ended and what it printed; raise `subprocess.TimeoutExpired` if it takes longer.

    `python -m MODULE` is forked where that is allowed.
    """
    if not may_fork(command, environment):
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
        )
    with tempfile.TemporaryDirectory() as folder:
        files = out, err = Path(folder) / "out", Path(folder) / "err"
        process = ForkedProcess(command[2:], environment=environment, cwd=cwd, stdout=out, stderr=err)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
        printed = (file.read_text() for file in files)
        return subprocess.CompletedProcess(list(command), code, *printed)


def may_fork(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether a command runs a module of ours, with this interpreter as it is set up, and forks are allowed."""
    for_python = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    other = for_python.items() - {*os.environ.items(), ("PYTHONPATH", str(ROOT))}
    return _allowed and list(command[:2]) == [sys.executable, "-m"] and not other


def processor_s() -> float:
    """Return the processor seconds of the process that forks, and of its forks that have ended; 0 before the first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(ForkedProcess.server.cpu_times()[:4]) if ForkedProcess.server is not None else 0.0
    return 0.0


class ForkedProcess:
    """A module that runs as a program in a fork; the methods are those of `subprocess.Popen`."""

    server: psutil.Process | None = None
    """The process that forks."""

    def __init__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], cwd: Path, stdout: Path, stderr: Path
    ) -> None:
        """Run a module with arguments; its output is appended to files."""
        self.args = list(argv)
        given = (self.args, dict(environment), str(cwd), str(stdout), str(stderr))
        self._process = _CONTEXT.Process(target=_run, args=given, daemon=True)
        with _LOCK:
            _start_server()
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended
            ForkedProcess.server = psutil.Process(self.pid).parent()
        self.returncode: int | None = None
        _running.add(self)

    def poll(self) -> int | None:
        """Return the exit code, -N for signal N, or None while it runs."""
        with _LOCK:
            self.returncode = self._process.exitcode
        if self.returncode is not None:
            _running.discard(self)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended; raise `subprocess.TimeoutExpired` if that takes longer."""
        connection.wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _start_server() -> None:
    """Start the process that forks if there is none: in our checkout, where it finds what it imports."""
    if ForkedProcess.server is None or not ForkedProcess.server.is_running():
        with contextlib.chdir(ROOT):
            forkserver.ensure_running()


@atexit.register
def _end_all() -> None:
    """Kill what still runs at the end, stopped or not: multiprocessing would ask it to end, and wait."""
    for process in list(_running):
        process.kill()


def _run(argv: list[str], environment: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """Become a program, as a child of the process that forks."""
    become(_IMPORTED_BY, argv, environment, cwd, [stdout, stderr])


def become(parent: int, argv: list[str], environment: dict[str, str], cwd: str, output: list[str]) -> None:
    """Become a program that ends with its parent.

    What a new process would not have is closed, and what it would have is set; `output` is the file for each stream.
    """
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above took effect
        os._exit(1)
    for number, file in enumerate(output, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["-m", *argv[1:]]
    gc.enable()
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001 - multiprocessing ends a fork without them
