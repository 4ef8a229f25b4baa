"""Runs one part: starts it, probes it, restarts it after its end, stops it."""

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

from decisions.backoff import backoff_s
from deploy.local import processes
from deploy.local.plan import Keys, Part, environment_of
from deploy.local.processes import Marks, Recorded
from deploy.local.ready import WaitsForDependency, probe_liveness, probe_part
from deploy.local.watch import HangDetector, HangLimits, read_activity
from shared.runtime.exits import count_memory_kills, describe_exit
from shared.runtime.process import child_command

State = Literal["waiting", "starting", "ready", "restarting", "stopping", "stopped"]

STEADY_S = 30.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 10.0
PROBE_EVERY_S = 0.2
LIVENESS_EVERY_S, MOST_PROBES = 1.0, 8
"""Seconds between two liveness probes of a part, and how many may be open at once."""
LEFTOVERS_S = 10.0
MEMORY_LOOKS = 10
"""Window, in looks (5 s), in which an out-of-memory kill of the control group explains an end."""
LOG_LIMIT_BYTES = 32 * 1024 * 1024


class Runner:
    """One part, and the process that currently runs it."""

    popen: Callable[..., "subprocess.Popen[bytes]"] = subprocess.Popen
    """Starts a process."""

    def __init__(
        self,
        part: Part,
        *,
        marks: Marks,
        keys: Keys,
        log: Path,
        inherited: Mapping[str, str],
        print_line: Callable[[str, str], None],
        on_change: Callable[[], None],
        living_sessions: Callable[[], Iterable[int]],
        dependencies_ready: Callable[[], bool] = lambda: True,
        limits: HangLimits | None = None,
        count_kills: Callable[[], int] = count_memory_kills,
    ) -> None:
        """Prepare to run a part.

        Args:
            part: the part.
            marks: marks of the stack's processes.
            keys: the credentials for probes.
            log: the file of its output.
            inherited: variables below its own.
            print_line: prints a line under the name of a part.
            on_change: called after a change of its state.
            living_sessions: returns the sessions of all living parts.
            dependencies_ready: returns whether all of its dependencies are ready.
            limits: limits of its silence.
            count_kills: returns the number of out-of-memory kills.
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
        self._print_line = print_line
        self._on_change = on_change
        self._living_sessions = living_sessions
        self._dependencies_ready = dependencies_ready
        self._limits = limits or HangLimits()
        self._count_kills = count_kills
        self._killed_because = ""
        self._memory_kills: deque[int] = deque(maxlen=MEMORY_LOOKS)
        self._stopping = asyncio.Event()
        self._gone = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id while the part runs."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Run the part until `stop` is called."""
        while not self._stopping.is_set():
            self._memory_kills.clear()
            self._memory_kills.append(self._count_kills())
            self._start()
            began = time.monotonic()
            probing = asyncio.create_task(self._watch())
            code = await self._ended()
            while not probing.done():
                probing.cancel()  # again, because a library may lose one
                await asyncio.wait([probing], timeout=1.0)
            was_ready = self.state == "ready"
            self._process = None
            self._gone.set()
            await self.end_leftovers()
            if self._stopping.is_set():
                break
            steady = was_ready and time.monotonic() - began > STEADY_S
            self.failures = 1 if steady or was_ready else self.failures + 1
            self.restarts += 1
            delay = backoff_s(self.failures, FIRST_DELAY_S, LONGEST_DELAY_S)
            self.ended = self._describe_end(code, out_of_memory=self._count_kills() > self._memory_kills[0])
            self._report(f"ended ({self.ended}); restart in {delay:.1f} s")
            self._become("restarting")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
        self._become("stopped")

    def _start(self) -> None:
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        environment = environment_of(self.part, self._marks.stack_id, self._inherited)
        command = child_command(self.part.argv)
        with self._log.open("ab") as log:
            self._process = self.popen(
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
        process = processes.read_process(self._process.pid)
        self.leader = Recorded(self._process.pid, process.started_ticks if process else 0)
        self._become("starting")

    async def _ended(self) -> int:
        """Wait for the process by its pidfd, and return its exit code."""
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
        return describe_exit(code, out_of_memory=out_of_memory)

    async def _watch(self) -> None:
        await asyncio.gather(self._watch_readiness(), self._watch_liveness(), return_exceptions=True)

    async def _watch_readiness(self) -> None:
        while (why := await probe_part(self.part, self._keys)) is not None:
            if why != self.why:
                self.why = why
                self._note_change()
            await asyncio.sleep(PROBE_EVERY_S)
        self.why = ""
        self._become("ready")
        self.ready.set()
        self._report(f"ready on port {self.part.port}")

    async def _watch_liveness(self) -> None:
        """Kill a part that hangs, so that it is restarted; also one in a hanging crash handler (Triton)."""
        process, part = self._process, self.part
        crash_handler = part.probe == "triton"
        detector = HangDetector(self._limits, part.start_limit_s, crash_handler=crash_handler)
        probes: set[asyncio.Task[None]] = set()
        last_look = time.monotonic()
        last_probe = last_look - LIVENESS_EVERY_S
        try:
            while process is not None and not self._stopping.is_set():
                probes = {task for task in probes if not task.done()}
                if (
                    last_look - last_probe >= min(LIVENESS_EVERY_S, self._limits.look_s * 2)
                    and len(probes) < MOST_PROBES
                ):
                    probes.add(asyncio.create_task(self._probe_liveness(detector)))
                    last_probe = last_look
                await asyncio.sleep(self._limits.look_s)
                before, last_look = last_look, time.monotonic()
                self._memory_kills.append(self._count_kills())
                activity = None
                if detector.needs_activity:
                    activity = read_activity(process.pid, crash_handler=crash_handler, children=part.works_in_children)
                waits = not self._dependencies_ready() or isinstance(self.why, WaitsForDependency)
                starting = self.state != "ready" and not waits
                why = detector.look(last_look - before, activity, starting=starting)
                if why is not None and not self._stopping.is_set():
                    self._killed_because = why
                    self._signal(process, signal.SIGKILL)
                    self._report(f"{why} and is killed")
                    return
        finally:
            for task in probes:
                task.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    async def _probe_liveness(self, detector: HangDetector) -> None:
        if await probe_liveness(self.part.probe, self.part.liveness_port, self._limits.silent_s):
            detector.answered()

    def _report(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk, or a closed pipe or file
            self._print_line(self.part.name, text)

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._note_change()

    def _note_change(self) -> None:
        with contextlib.suppress(OSError):  # the table cannot be written, as on a full disk: the part runs on
            self._on_change()

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after the grace period."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        self._become("stopping")
        self._signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), self.part.stop_grace_s)
        if self._process is process:
            self._report(f"did not end within {self.part.stop_grace_s:g} s and is killed")
            self._signal(process, signal.SIGKILL)

    def restart(self, why: str) -> None:
        """Send SIGTERM to the process, so that it is restarted."""
        if self._process is not None and not self._stopping.is_set():
            self._report(f"{why}; it is started again")
            self._signal(self._process, signal.SIGTERM)

    def kill(self) -> None:
        """End the part at once."""
        self._stopping.set()
        if self._process is not None:
            self._signal(self._process, signal.SIGKILL)

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        if process.poll() is None:
            process.send_signal(number)

    async def end_leftovers(self) -> None:
        """Kill the processes left by the part's last run, such as the engines of a killed tritonserver.

        Repeated until none is found, because a dying process may have started another.
        """
        if self.leader is None:
            return
        ended: set[int] = set()
        deadline = time.monotonic() + LEFTOVERS_S
        while left := processes.find_part_leftovers(
            self._marks, self.part.name, self.leader, living_sessions=self._living_sessions()
        ):
            ended |= {process.pid for process in left}
            processes.kill(left)
            processes.collect_orphans(self._living_sessions())
            if time.monotonic() > deadline:
                self._report(f"processes {sorted(process.pid for process in left)} cannot be ended")
                break
            await asyncio.sleep(0.02)
        processes.collect_orphans(self._living_sessions())
        if ended:
            self._report(f"ended {len(ended)} process(es) that it left behind")
