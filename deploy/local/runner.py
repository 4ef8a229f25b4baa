"""Keeps one part running: starts it, waits until it is ready, starts it again when it dies, stops it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from deploy.local import processes
from deploy.local.plan import Keys, Part, marked
from deploy.local.processes import Marks, Recorded
from deploy.local.ready import Refused, WaitsForOthers, ask_life, why_not_ready
from deploy.local.watch import Judge, Patience, read_activity
from shared.runtime.exits import count_memory_kills, describe_end
from shared.runtime.process import launching

State = Literal["waiting", "starting", "ready", "restarting", "stopping", "stopped"]

STEADY_S = 30.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 10.0
PROBE_EVERY_S = 0.2
LIVE_EVERY_S, MOST_ASKED = 1.0, 8
"""How often a part is asked whether it lives, and how many of these questions may be open at once."""
LEFTOVERS_S = 10.0
MEMORY_LOOKS = 10
"""The count of kills for memory is compared with that so many looks (5 s) ago: it is that of the whole group."""
LOG_LIMIT_BYTES = 32 * 1024 * 1024


def restart_delay_s(failures: int) -> float:
    """Return how long to wait before the next start, in seconds: doubling from start to start, bounded."""
    return float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(failures - 1, 16))) if failures > 0 else 0.0


class Runner:
    """One part and the process that currently is it."""

    def __init__(
        self,
        part: Part,
        *,
        marks: Marks,
        keys: Keys,
        log: Path,
        inherited: Mapping[str, str],
        say: Callable[[str, str], None],
        changed: Callable[[], None],
        living: Callable[[], Iterable[int]],
        based: Callable[[], bool] = lambda: True,
        patience: Patience | None = None,
        count_kills: Callable[[], int] = count_memory_kills,
    ) -> None:
        """Prepare to run a part.

        Args:
            part: what to run.
            marks: how its processes are told from others.
            keys: the credentials of the store.
            log: where its output goes.
            inherited: variables that it gets beside its own.
            say: prints a line in its name.
            changed: is called when its state has changed.
            living: gives the sessions of all living parts.
            based: tells whether all that it stands on is ready.
            patience: how long it may be silent.
            count_kills: counts the processes that the kernel has killed for want of memory.
        """
        self.part = part
        self.state: State = "waiting"
        self.restarts = 0
        self.failures = 0
        self.why = ""
        self.ended = ""
        self.ready = asyncio.Event()
        self.leader: Recorded | None = None
        self._marks = marks
        self._keys = keys
        self._log = log
        self._inherited = inherited
        self._say = say
        self._changed = changed
        self._living = living
        self._based = based
        self._patience = patience or Patience()
        self._count_kills = count_kills
        self._killed_because = ""
        self._memory_kills: deque[int] = deque(maxlen=MEMORY_LOOKS)
        self._stopping = asyncio.Event()
        self._gone = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while the part runs."""
        return self._process.pid if self._process is not None else None

    async def keep(self) -> None:
        """Run the part until `stop` is called."""
        while not self._stopping.is_set():
            self._memory_kills.clear()
            self._memory_kills.append(self._count_kills())
            self._start()
            began = time.monotonic()
            probing = asyncio.create_task(self._watch())
            code = await self._ended()
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            was_ready = self.state == "ready"
            self._process = None
            self._gone.set()
            await self.end_leftovers()
            if self._stopping.is_set():
                break
            steady = was_ready and time.monotonic() - began > STEADY_S
            self.failures = 1 if steady or was_ready else self.failures + 1
            self.restarts += 1
            delay = restart_delay_s(self.failures)
            self.ended = self._describe_end(code, out_of_memory=self._count_kills() > self._memory_kills[0])
            self._tell(f"ended ({self.ended}), starts again in {delay:.1f} s")
            self._become("restarting")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
        self._become("stopped")

    def _start(self) -> None:
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        environment = {**self._inherited, **marked(self.part, self._marks.stack_id)}
        command = launching(self.part.argv)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._marks.run_folder,
                start_new_session=True,
            )
        self._gone.clear()
        self._killed_because = ""
        found = processes.read_process(self._process.pid)
        self.leader = Recorded(self._process.pid, found.started_ticks if found else 0)
        self._become("starting")

    async def _ended(self) -> int:
        """Wait for the process without a thread: its descriptor becomes readable when it ends."""
        process = self._process
        if process is None:
            return 0
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        descriptor = os.pidfd_open(process.pid)

        def on_end() -> None:
            loop.remove_reader(descriptor)
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(descriptor, on_end)
        try:
            await ended
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return process.wait()

    def _describe_end(self, code: int, *, out_of_memory: bool) -> str:
        if self._killed_because and code == -signal.SIGKILL:
            return f"killed by the supervisor: it {self._killed_because}"
        return describe_end(code, out_of_memory=out_of_memory)

    async def _watch(self) -> None:
        await asyncio.gather(self._watch_readiness(), self._watch_life(), return_exceptions=True)

    async def _watch_readiness(self) -> None:
        while (why := await why_not_ready(self.part, self._keys)) is not None:
            if why != self.why:
                self.why = why
                self._note_change()
            await asyncio.sleep(PROBE_EVERY_S)
        self.why = ""
        self._become("ready")
        self.ready.set()
        self._tell(f"ready on port {self.part.port}")

    async def _watch_life(self) -> None:
        """Kill a part that hangs, so that it is started again.

        Triton prints where it is when it crashes; if memory is corrupt, that may hang, and the process never ends.
        """
        process, part = self._process, self.part
        judge = Judge(self._patience, part.start_limit_s, part.stop_grace_s, recovers=part.recovers)
        asking: set[asyncio.Task[None]] = set()
        looked = time.monotonic()
        asked = looked - LIVE_EVERY_S
        try:
            while process is not None and not self._stopping.is_set():
                asking = {task for task in asking if not task.done()}
                if looked - asked >= min(LIVE_EVERY_S, self._patience.look_s * 2) and len(asking) < MOST_ASKED:
                    asking.add(asyncio.create_task(self._ask_life(judge)))
                    asked = looked
                await asyncio.sleep(self._patience.look_s)
                before, looked = looked, time.monotonic()
                self._memory_kills.append(self._count_kills())
                crash_handler = part.probe == "triton"
                wanted = crash_handler or judge.wants_activity
                activity = read_activity(process.pid, crash_handler=crash_handler) if wanted else None
                why = judge.look(
                    looked - before,
                    activity,
                    ready=self.state == "ready",
                    based=self._based(),
                    waits_for_others=isinstance(self.why, WaitsForOthers),
                )
                if why is not None and not self._stopping.is_set():
                    self._killed_because = why
                    self._signal(process, signal.SIGKILL)
                    self._tell(f"{why} and is killed")
                    return
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask_life(self, judge: Judge) -> None:
        try:
            if await ask_life(self.part.probe, self.part.port, self._patience.silent_s):
                judge.answered()
        except Refused:
            judge.refused()

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk, or a closed pipe or file
            self._say(self.part.name, text)

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._note_change()

    def _note_change(self) -> None:
        with contextlib.suppress(OSError):  # the table cannot be written, as on a full disk: the part is kept anyway
            self._changed()

    async def stop(self) -> None:
        """Ask the part to end, and end it by force when its grace is over."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        self._become("stopping")
        self._signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), self.part.stop_grace_s)
        if self._process is process:
            self._tell(f"did not end within {self.part.stop_grace_s:g} s and is killed")
            self._signal(process, signal.SIGKILL)

    def kill(self) -> None:
        """End the part at once."""
        self._stopping.set()
        if self._process is not None:
            self._signal(self._process, signal.SIGKILL)

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        if process.poll() is None:
            process.send_signal(number)

    async def end_leftovers(self) -> None:
        """Kill what the part's last process left behind, such as the engines of a killed tritonserver.

        Looked for until nothing is found: what is being killed may just have started something.
        """
        if self.leader is None:
            return
        ended: set[int] = set()
        deadline = time.monotonic() + LEFTOVERS_S
        while left := self._leftovers(self.leader):
            ended |= {process.pid for process in left}
            processes.kill(left)
            processes.collect_orphans(self._living())
            if time.monotonic() > deadline:
                self._tell(f"processes {sorted(process.pid for process in left)} cannot be ended")
                break
            await asyncio.sleep(0.02)
        processes.collect_orphans(self._living())
        if ended:
            self._tell(f"{len(ended)} process(es) that it left behind were ended")

    def _leftovers(self, leader: Recorded) -> list[processes.Process]:
        return processes.find_part_leftovers(self._marks, self.part.name, leader, living_sessions=self._living())
