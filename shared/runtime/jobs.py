"""Runs long work in a killable child process that dies with its parent and reports as it goes.

The child prints one JSON object a line on its standard output: `{"progress": {…}}` any number of times, then
`{"result": {…}}` or `{"error": {"code", "reason", "details"}}`. Everything else goes to its log. An error with
`"at_alarm": true` beside it is what is meant if the child dies of SIGALRM later.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import structlog

from contracts.codes import Code
from shared.errors import Permanent, SlipwayError, Transient, as_code, translate
from shared.runtime.exits import count_memory_kills, describe_end
from shared.runtime.process import end_tree, launching

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]
_LINE_LIMIT = 4 * 1024 * 1024  # bytes of one message of the child
_OUT_OF_MEMORY_EXIT = 77
_OUT_OF_MEMORY_PHRASES = (
    "DefaultCPUAllocator",
    "not enough memory",
    "an't allocate memory",
    "annot allocate memory",
    "out of memory",
    "bad_alloc",
)
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
) -> dict[str, Any]:
    """Run a child process and give its result.

    Cancelling ends the child. `memory_limit_bytes` bounds the child's data segment. A child that has said how its work
    ended has said it, whatever becomes of its process afterwards.

    Args:
        argv: The child's command line.
        on_progress: Called with what the child reports.
        log_path: Where its output goes.
        memory_limit_bytes: The most private memory that it may map; no limit when absent.
        timeout_s: After how long it is ended; never when absent.
        at_timeout: A sentence that says what a person can do about that.
        env: Variables beside those of this process.

    Raises:
        Permanent: what the child reported, `deadline_passed` after `timeout_s`, because the same work would take as
            long again, or `out_of_memory`, `engine_failed` when it died without a word.
        Transient: what the child reported as such.
        ChildKilled: somebody killed it; says nothing about the input, so it is tried again up to the delivery limit.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    kills_before = count_memory_kills()
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *launching(argv, memory_limit_bytes=memory_limit_bytes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=_LINE_LIMIT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    heard = _Heard()
    try:
        async with asyncio.timeout(timeout_s) as limit:
            await _attend(process, on_progress, heard)
    except TimeoutError as error:
        if not limit.expired():
            raise
        if not heard.outcome:
            reason = f"The work took longer than {timeout_s:.0f} s and was ended. {at_timeout}".rstrip()
            raise Permanent("deadline_passed", reason) from error
    finally:
        if process.returncode is None:
            await asyncio.to_thread(end_tree, process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what the child left behind is in its group
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - a child of the child may hold it open
    outcome = heard.outcome or (heard.at_alarm if process.returncode == -signal.SIGALRM else {})
    return _conclude(outcome, process.returncode, log_path, killed_by_kernel=count_memory_kills() > kills_before)


@dataclass
class _Heard:
    """What a child said so far: how many messages, and its last word."""

    messages: int = 0
    outcome: dict[str, Any] = field(default_factory=dict)
    at_alarm: dict[str, Any] = field(default_factory=dict)


async def _attend(process: asyncio.subprocess.Process, on_progress: OnProgress, heard: _Heard) -> None:
    """Listen to the child until it has ended and nothing more comes.

    The end of its output is not awaited: a helper that the child forked may hold the channel open for ever.
    """
    listening = asyncio.ensure_future(_listen(process.stdout, on_progress, heard))
    ended = asyncio.ensure_future(_ended(process))
    try:
        await asyncio.wait({listening, ended}, return_when=asyncio.FIRST_COMPLETED)
        before = -1
        while ended.done() and not listening.done() and before < heard.messages:
            before = heard.messages
            await asyncio.wait({listening}, timeout=_SILENCE_S)
        if listening.done():
            listening.result()
        await ended
    finally:
        listening.cancel()
        ended.cancel()


async def _ended(process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:  # noqa: ASYNC110 - wait() would wait for the end of the output as well
        await asyncio.sleep(_POLL_S)


async def _listen(stream: asyncio.StreamReader | None, on_progress: OnProgress, heard: _Heard) -> None:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than any message of ours: the reader has dropped it
            continue
        if not line:
            return
        message = _message(line)
        if message is None:
            continue
        heard.messages += 1
        if "progress" in message:
            await on_progress(message["progress"])
        elif message.get("at_alarm") is True:
            heard.at_alarm = message
        else:
            heard.outcome = message


def _message(line: bytes) -> dict[str, Any] | None:
    """Read one line of the protocol; None for anything else."""
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


def _conclude(outcome: dict[str, Any], code: int | None, log_path: Path, *, killed_by_kernel: bool) -> dict[str, Any]:
    if "error" in outcome:
        error = outcome["error"]
        kind = Transient if error.get("transient") else Permanent
        raise kind(as_code(error["code"]), error["reason"], **error.get("details", {}))
    if "result" in outcome:
        if code != 0:  # libraries may crash while the interpreter takes them down
            structlog.get_logger().warning(
                "the work was done, but its process ended badly", exit_code=code, log=log_path.name
            )
        result: dict[str, Any] = outcome["result"]
        return result
    log = f"see {log_path.name} in the service's folder"
    if code == -signal.SIGKILL and not killed_by_kernel:
        raise ChildKilled(f"The work was killed from outside; {log}.")
    if code in (-signal.SIGKILL, _OUT_OF_MEMORY_EXIT):
        raise Permanent("out_of_memory", f"The work was killed for using too much memory; {log}.", exit_code=code)
    ended = describe_end(code or 0)
    raise Permanent("engine_failed", f"The work gave no result. It ended with {ended}; {log}.", exit_code=code)


# -- inside the child ---------------------------------------------------------------------------------------------


def report_progress(**fields: Any) -> None:
    """Tell the parent how far the work is."""
    _say({"progress": fields})


def job_main(work: Callable[[list[str]], dict[str, Any]]) -> NoReturn:
    """Run a child's work and report its result or error; libraries that print cannot disturb the protocol."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    global _protocol  # noqa: PLW0603 - one channel to the parent per process
    _protocol = protocol
    try:
        _say({"result": work(sys.argv[1:])})
    except Exception as error:
        if is_out_of_memory(error):
            sys.exit(_OUT_OF_MEMORY_EXIT)
        known = error if isinstance(error, SlipwayError) else translate(error)
        if known is None:
            raise
        _say(
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
def limited_time(limit_s: float, code: Code, reason: str) -> Iterator[None]:
    """End this process, with this error as its outcome, when what is inside takes longer; for a job's main thread.

    The kernel ends it, by SIGALRM: a library that does not return to Python for hours (a regular expression that
    backtracks without end) cannot keep it from that. Outside of a job nothing is limited.
    """
    if _protocol == _STDOUT:
        yield
        return
    _say({"error": {"code": code, "reason": reason, "details": {}}, "at_alarm": True})
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that no more memory was to be had; libraries say it in many ways."""
    if isinstance(error, SlipwayError):
        return False
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES)


_STDOUT = 1
_protocol = _STDOUT


def _say(message: dict[str, Any]) -> None:
    line = json.dumps(message, default=str).encode()
    if len(line) > _LINE_LIMIT:
        reason = f"The work's {next(iter(message))} was larger ({len(line)} bytes) than the {_LINE_LIMIT} that fit."
        raise Permanent("engine_failed", reason)
    os.write(_protocol, line + b"\n")
