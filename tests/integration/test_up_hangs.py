"""A part that hangs is killed and started again: real processes under the runner, with limits a sixth of the real ones."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from deploy.local.plan import Keys, Part
from deploy.local.processes import Marks
from deploy.local.runner import Runner
from deploy.local.watch import HangLimits
from testbed.ports import free_port

# Answers HTTP from a thread. Once told (by a file), it hangs as its first argument says; it is told only once.
PART = """
import ctypes, http.server, os, signal, sys, threading, time
how, flag, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = os.path.exists(flag)
libc = ctypes.CDLL(None)

@ctypes.CFUNCTYPE(None, ctypes.c_int)
def hang(_number):
    while True:
        libc.sleep(1)

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"ready": false, "checks": {"bus": "not connected"}}' if how == "waiting" else b""
        unready = (how == "not ready" and not told) or (how == "waiting" and not os.path.exists(flag + ".others"))
        self.send_response(503 if unready and self.path == "/readyz" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

libc.signal(6, hang)
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not told:
    open(flag, "w").close()
    if how == "start":
        time.sleep(600)
    if how == "start, aborting":
        os.kill(os.getpid(), 6)
    if how == "start, stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "start, spinning":
        while True:
            pass
server = http.server.HTTPServer(("127.0.0.1", port), Answer)
if how == "abort":  # all of it is in the handler, as in a server whose heap is locked
    server.serve_forever()
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    time.sleep(1)
"""
QUICK = HangLimits(silent_s=0.8, starved_s=3.0, look_s=0.1)
KEYS = Keys(Path("keys"))


class Stub(Part):
    @property
    def start_limit_s(self) -> float:
        return 2.0


def on_a_full_disk() -> None:
    raise OSError(28, "No space left on device")


class SupervisedPart:
    """A stub part and the runner that keeps it running."""

    def __init__(
        self, folder: Path, how: str, changed=lambda: None, print_line=lambda _part, _text: None, **more
    ) -> None:
        folder.mkdir(exist_ok=True)
        port = free_port()
        argv = (sys.executable, "-I", "-S", "-c", PART, how, str(folder / "told"), str(port))
        self.printed: list[str] = []

        def note(part: str, text: str) -> None:
            self.printed.append(text)
            print_line(part, text)

        self.runner = Runner(
            Stub("stub", argv, {}, port, "service", 0, stop_grace_s=1.5),
            marks=Marks(f"stack-{uuid.uuid4().hex}", folder),
            keys=KEYS,
            log=folder / "log",
            inherited=dict(os.environ),
            print_line=note,
            on_change=changed,
            living_sessions=list,
            limits=QUICK,
            **more,
        )

    async def until(self, condition, *, limit_s: float = 120.0) -> None:
        """Wait for a condition."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < limit_s, (self.runner.state, self.runner.pid, self.printed)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def kept(folder: Path, how: str, **more):
    keeper = SupervisedPart(folder, how, **more)
    keeping = asyncio.create_task(keeper.runner.run())
    try:
        yield keeper
    finally:
        keeper.runner.kill()
        await asyncio.wait_for(keeping, 10)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGABRT])
async def test_a_part_that_hangs_while_serving_is_started_again(tmp_path, number):
    async with kept(tmp_path, "abort") as keeper:
        await keeper.until(lambda: keeper.runner.state == "ready")
        before = keeper.runner.pid
        os.kill(before, number)
        await keeper.until(lambda: keeper.runner.pid not in (before, None) and keeper.runner.state == "ready")
        assert any("has not answered for" in text and "is killed" in text for text in keeper.printed), keeper.printed
        assert keeper.runner.ended.startswith("killed by the supervisor: it has not answered")


@pytest.mark.parametrize("how", ["start", "start, aborting", "start, stopped"])
async def test_a_part_that_hangs_before_it_was_ready_is_started_again(tmp_path, how):
    async with kept(tmp_path, how) as keeper:
        await keeper.until(lambda: keeper.runner.state == "ready")
        assert keeper.runner.restarts == 1
        assert any("did nothing for" in text for text in keeper.printed), keeper.printed


@pytest.mark.parametrize("how", ["start, spinning", "not ready"])
async def test_a_part_that_is_busy_or_answers_but_is_not_ready_within_its_limit_is_started_again(tmp_path, how):
    async with kept(tmp_path, how) as keeper:
        await keeper.until(lambda: keeper.runner.state == "ready")
        assert any("was not ready within 2 s" in text for text in keeper.printed), keeper.printed


async def test_a_part_that_answers_and_is_not_ready_because_of_others_is_left_alone(tmp_path):
    async with kept(tmp_path, "waiting") as keeper:
        await keeper.until(lambda: "not connected" in keeper.runner.why)
        pid, began = keeper.runner.pid, time.monotonic()
        await keeper.until(lambda: time.monotonic() - began > 1.5 * keeper.runner.part.start_limit_s)
        assert (keeper.runner.pid, keeper.runner.restarts, keeper.runner.state) == (pid, 0, "starting"), keeper.printed
        (tmp_path / "told.others").touch()
        await keeper.until(lambda: keeper.runner.state == "ready")
        assert keeper.runner.pid == pid


async def test_a_part_that_is_asked_to_stop_is_not_taken_for_hung(tmp_path):
    async with kept(tmp_path, "deaf") as keeper:
        await keeper.until(lambda: keeper.runner.state == "ready")
        os.kill(keeper.runner.pid, signal.SIGSTOP)
        await keeper.runner.stop()
        assert any("did not end within 1.5 s" in text for text in keeper.printed), keeper.printed
        assert not any("has not answered" in text for text in keeper.printed), keeper.printed


async def test_the_end_of_a_part_is_told_by_the_signals_name_and_meaning(tmp_path):
    async with kept(tmp_path, "serve") as keeper:
        await keeper.until(lambda: keeper.runner.state == "ready")
        os.kill(keeper.runner.pid, signal.SIGILL)
        await keeper.until(lambda: keeper.runner.restarts == 1)
        assert (
            keeper.runner.ended
            == "signal SIGILL: it used an instruction that this CPU lacks, or is configured for another CPU's instruction set"
        )
        assert any("SIGILL" in text for text in keeper.printed)


@pytest.mark.parametrize("closed", [False, True], ids=["full", "closed"])
async def test_a_line_or_a_table_that_cannot_be_written_ends_neither_the_part_nor_its_restarts(tmp_path, closed):
    output = Path("/dev/full").open("w")  # noqa: SIM115 - closing it may fail, too
    if closed:
        output.close()
    try:
        said = {"print_line": lambda _part, text: print(text, file=output, flush=True), "changed": on_a_full_disk}
        async with kept(tmp_path, "abort", **said) as keeper:
            await keeper.until(lambda: keeper.runner.state == "ready")
            for number in (signal.SIGSTOP, signal.SIGKILL):
                before = keeper.runner.pid
                os.kill(before, number)
                await keeper.until(
                    lambda old=before: keeper.runner.pid not in (old, None) and keeper.runner.state == "ready"
                )
    finally:
        with contextlib.suppress(OSError):
            output.close()


@pytest.mark.parametrize("recent", [True, False])
async def test_memory_is_named_as_a_cause_only_where_the_kernel_killed_something_just_before(tmp_path, recent):
    kills = 0
    async with kept(tmp_path, "serve", count_kills=lambda: kills) as keeper:
        await keeper.until(lambda: keeper.runner.state == "ready")
        kills += 1  # of another process of the group
        if not recent:
            noted = time.monotonic()
            await keeper.until(lambda: time.monotonic() - noted > 20 * QUICK.look_s)
        os.kill(keeper.runner.pid, signal.SIGKILL)
        await keeper.until(lambda: keeper.runner.restarts == 1)
        assert ("perhaps the kernel killed it" in keeper.runner.ended) == recent
