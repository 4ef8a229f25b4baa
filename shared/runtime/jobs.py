"""Runs long work in a child process that can be killed, dies with its parent, and reports its progress.

The child (`shared.runtime.worker`) prints one JSON object per line on its standard output: `{"progress": {…}}` any
number of times, then `{"result": {…}}` or `{"error": {"code", "reason", "details"}}`. Everything else goes to its log.
An error with `"at_alarm": true` is the outcome if SIGALRM ends the child later.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from shared.errors import Permanent, Transient, as_code
from shared.runtime.exits import count_memory_kills, describe_exit
from shared.runtime.process import child_command, terminate_tree
from shared.runtime.progress import ReportProgress
from shared.runtime.sandbox import clean_environment
from shared.runtime.worker import MESSAGE_LIMIT_BYTES, OUT_OF_MEMORY_EXIT

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]
_SILENCE_S = 2.0
_POLL_S = 0.05


class ChildKilled(Exception):  # noqa: N818 - it is what happened
    """A child was ended by SIGKILL, and not by the kernel for want of memory."""


async def run_job(
    argv: Sequence[str],
    *,
    on_progress: OnProgress,
    log_path: Path,
    memory_limit_bytes: int | None = None,
    timeout_s: float | None = None,
    at_timeout: str = "",
    env: Mapping[str, str] | None = None,
    scratch: Path | None = None,
    descriptors: Sequence[int] = (),
) -> dict[str, Any]:
    """Run a child process and return its result.

    Cancelling ends the child. The child's reported outcome is final, whatever its exit code.

    Args:
        argv: The child's command line.
        on_progress: Called with each progress report.
        log_path: File of its output.
        memory_limit_bytes: Limit of its data segment; None for no limit.
        timeout_s: Time limit; None for no limit.
        at_timeout: Advice for the operator after a timeout.
        env: Variables over those of `sandbox.clean_environment`.
        scratch: The folder for its temporary files.
        descriptors: Open descriptors that it inherits.

    Raises:
        Permanent: The child's reported error; `deadline_passed` after `timeout_s`; `out_of_memory` or `engine_failed`
            if it died without a report.
        Transient: The child's reported transient error.
        ChildKilled: It was killed from outside; the input may be valid.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    kills_before = count_memory_kills()
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *child_command(argv, memory_limit_bytes=memory_limit_bytes, alone=True),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=MESSAGE_LIMIT_BYTES,
            env={**clean_environment(scratch), **(env or {})},
            pass_fds=descriptors,
            start_new_session=True,
        )
    report = _Report()
    try:
        async with asyncio.timeout(timeout_s) as limit:
            await _read_until_exit(process, on_progress, report)
    except TimeoutError as error:
        if not limit.expired():
            raise
        if not report.outcome:
            raise Permanent(
                "deadline_passed", f"The work was ended after its limit of {timeout_s:.0f} s. {at_timeout}".rstrip()
            ) from error
    finally:
        if process.returncode is None:
            await asyncio.to_thread(terminate_tree, process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left, where seccomp does not refuse that
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - a child of the child may hold it open
    outcome = report.outcome or (report.at_alarm if process.returncode == -signal.SIGALRM else {})
    return _result_of(outcome, process.returncode, log_path, killed_by_kernel=count_memory_kills() > kills_before)


@dataclass(frozen=True)
class Worker:
    """A module of ours that runs as a child process, once per job.

    Attributes:
        module: Name of the module, which calls `worker.job_main`.
        threads: Threads of torch and its libraries; None for their default.
        log_path, environment, memory_limit_bytes, timeout_s, at_timeout: As in `run_job`.
    """

    module: str
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    memory_limit_bytes: int | None = None
    timeout_s: float | None = None
    at_timeout: str = ""

    async def run(
        self,
        arguments: Sequence[str] = (),
        report: ReportProgress | None = None,
        *,
        scratch: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Run one job and return its result; arguments and errors as in `run_job`."""

        async def forward(fields: dict[str, Any]) -> None:
            if report is not None:
                report(fields["step"], fields["done"], fields["total"], fields["unit"])

        threads = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return await run_job(
            [sys.executable, "-m", self.module, *arguments],
            on_progress=forward,
            log_path=self.log_path,
            memory_limit_bytes=self.memory_limit_bytes,
            timeout_s=self.timeout_s,
            at_timeout=self.at_timeout,
            env={**self.environment, **threads},
            scratch=scratch,
            descriptors=descriptors,
        )


@dataclass
class _Report:
    """A child's reports so far: the number of messages, and the outcome."""

    messages: int = 0
    outcome: dict[str, Any] = field(default_factory=dict)
    at_alarm: dict[str, Any] = field(default_factory=dict)


async def _read_until_exit(process: asyncio.subprocess.Process, on_progress: OnProgress, report: _Report) -> None:
    """Read the child's messages until it has exited and its output is silent.

    The end of the output is not awaited: a forked process may keep the pipe open.
    """
    reading = asyncio.ensure_future(_read_messages(process.stdout, on_progress, report))
    ended = asyncio.ensure_future(_wait_for_exit(process))
    try:
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        before = -1
        while ended.done() and not reading.done() and before < report.messages:
            before = report.messages
            await asyncio.wait({reading}, timeout=_SILENCE_S)
        if reading.done():
            reading.result()
        await ended
    finally:
        reading.cancel()
        ended.cancel()


async def _wait_for_exit(process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:  # noqa: ASYNC110 - wait() would wait for the end of the output as well
        await asyncio.sleep(_POLL_S)


async def _read_messages(stream: asyncio.StreamReader | None, on_progress: OnProgress, report: _Report) -> None:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than any message of ours: the reader has dropped it
            continue
        if not line:
            return
        message = _parse_message(line)
        if message is None:
            continue
        report.messages += 1
        if "progress" in message:
            await on_progress(message["progress"])
        elif message.get("at_alarm") is True:
            report.at_alarm = message
        else:
            report.outcome = message


def _parse_message(line: bytes) -> dict[str, Any] | None:
    """Return the message on a line; None for other output."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if not isinstance(message, dict):
        return None
    if isinstance(message.get("progress"), dict) or isinstance(message.get("result"), dict):
        return message
    error = message.get("error")
    is_error = isinstance(error, dict) and isinstance(error.get("code"), str) and isinstance(error.get("reason"), str)
    return message if is_error else None


def _result_of(outcome: dict[str, Any], code: int | None, log_path: Path, *, killed_by_kernel: bool) -> dict[str, Any]:
    if "error" in outcome:
        error = outcome["error"]
        kind = Transient if error.get("transient") else Permanent
        raise kind(as_code(error["code"]), error["reason"], **error.get("details", {}))
    if "result" in outcome:
        if code != 0:  # libraries may crash while the interpreter takes them down
            structlog.get_logger().warning(
                "the work is done, but its process ended with an error", exit_code=code, log=log_path.name
            )
        result: dict[str, Any] = outcome["result"]
        return result
    log = f"see {log_path.name} in the service's folder"
    if code == -signal.SIGKILL and not killed_by_kernel:
        raise ChildKilled(f"The work was killed from outside; {log}.")
    if code in (-signal.SIGKILL, OUT_OF_MEMORY_EXIT):
        raise Permanent("out_of_memory", f"The work was killed for using too much memory; {log}.", exit_code=code)
    ended = describe_exit(code or 0)
    raise Permanent("engine_failed", f"The work gave no result. It ended with {ended}; {log}.", exit_code=code)
