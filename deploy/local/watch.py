"""Decide whether a part hangs, from its silence, the activity of its threads and the duration of its start.

Silence alone does not distinguish a part that hangs from one that is busy or gets no CPU. So time in which its threads
compute, or wait for a CPU or a disk, does not count, up to a limit. Of a late look, only the regular interval counts.
For a process that is stopped by a signal or in its crash handler, all time counts.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
FATAL_SIGNALS = (4, 6, 7, 8, 11)
"""SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: a process that handles one of these is about to end."""
STOPPED = frozenset("T")
LONGEST_START_S = 600.0
"""Seconds that a start may take while it makes progress: see `HangDetector`."""
IDLE_RATIO, PROGRESS_RATIO = 0.01, 0.1
"""Threads that ran or waited for a CPU for a smaller share of the time were idle, or made no progress."""


@dataclass(frozen=True)
class HangLimits:
    """How long a part may be silent.

    Attributes:
        silent_s: how long it may be silent once it has answered, be idle while it starts, or be in its crash handler.
        starved_s: how long it may be silent if its threads compute, or wait for a CPU or a disk.
        look_s: seconds between two looks.
    """

    silent_s: float = 5.0
    starved_s: float = 20.0
    look_s: float = 0.5


@dataclass(frozen=True)
class Activity:
    """The activity of a process's threads since it started, added up.

    Attributes:
        ran_s: time on a CPU.
        waited_s: time ready to run, without a CPU.
        faults: pages read from a disk.
        stopped: the process is stopped by a signal.
        on_disk: a thread waits for a disk.
        crashing: a thread is inside the handler of a fatal signal.
    """

    ran_s: float = 0.0
    waited_s: float = 0.0
    faults: int = 0
    stopped: bool = False
    on_disk: bool = False
    crashing: bool = False


class HangDetector:
    """Accumulates observations of one process until they show that it hangs."""

    def __init__(self, limits: HangLimits, start_limit_s: float, leaving_s: float, *, recovers: bool = False) -> None:
        """Start without any observation.

        Args:
            limits: how long it may be silent.
            start_limit_s: how long its start may take.
            leaving_s: how long it may take to end after it closed its port.
            recovers: it reads its store at start: while that makes progress, the limit is `LONGEST_START_S`.
        """
        self._limits = limits
        self._recovers = recovers
        self._start_limit_s = start_limit_s
        self._leaving_s = leaving_s
        self._before: Activity | None = None
        self._silent_s = self._starved_s = self._idle_s = self._starting_s = self._crashing_s = 0.0
        self._started_s = 0.0
        self._stalled_s = 0.0
        self._answered = self._answered_now = False
        self._refused = False

    @property
    def needs_activity(self) -> bool:
        """Return whether the next look needs the process's activity: while it starts and while it is silent."""
        return not self._answered or self._starved_s > 0.0

    @property
    def has_answered(self) -> bool:
        """Return whether the process has ever answered."""
        return self._answered

    def answered(self) -> None:
        """Record an answer, which ends the silence."""
        self._answered, self._answered_now, self._refused = True, True, False
        self._silent_s = self._starved_s = 0.0

    def refused(self) -> None:
        """Record that nothing listens: a part that answered before is ending, and gets the time of a stop for it."""
        self._refused = True

    def look(
        self,
        elapsed_s: float,
        activity: Activity | None,
        *,
        ready: bool,
        dependencies_ready: bool,
        waits_for_dependency: bool = False,
    ) -> str | None:
        """Return why the part must be killed, or None.

        Args:
            elapsed_s: time since the last look.
            activity: the process's activity so far; None if it cannot be read.
            ready: the part has been ready.
            dependencies_ready: all parts that it depends on are ready; otherwise its start is not timed.
            waits_for_dependency: it answers that it is not ready because of another part.
        """
        elapsed_s = min(elapsed_s, 2 * self._limits.look_s)
        seen = self._compare(elapsed_s, activity)
        crashing = activity is not None and activity.crashing
        self._crashing_s = self._crashing_s + elapsed_s if crashing else 0.0
        if not self._answered_now:
            self._starved_s += elapsed_s
            self._silent_s += elapsed_s - seen.busy_s
        self._answered_now = False
        if not ready and dependencies_ready:
            self._starting_s += elapsed_s - seen.waited_s
            self._started_s += elapsed_s
            busy = seen.busy_s > IDLE_RATIO * elapsed_s or seen.unknown
            self._idle_s = 0.0 if busy or self._answered else self._idle_s + elapsed_s
            progress = waits_for_dependency or (self._recovers and seen.busy_s > PROGRESS_RATIO * elapsed_s)
            self._stalled_s = 0.0 if progress else self._stalled_s + elapsed_s
        return self._verdict(ready)

    def _verdict(self, ready: bool) -> str | None:
        limits = self._limits
        if self._crashing_s >= limits.silent_s:
            return f"has been in its crash handler for {self._crashing_s:.1f} s"
        if self._answered:
            more = self._leaving_s if self._refused else 0.0
            what = "does not listen any more" if self._refused else "has not answered"
            if self._silent_s >= limits.silent_s + more or self._starved_s >= limits.starved_s + more:
                return f"{what} for {self._starved_s:.1f} s"
        elif self._idle_s >= limits.silent_s:
            return f"did nothing for {self._idle_s:.1f} s while it started"
        if not ready and self._starting_s >= self._start_limit_s and self._stalled_s >= limits.silent_s:
            return f"was not ready within {self._starting_s:.0f} s"
        if not ready and self._started_s >= max(self._start_limit_s, LONGEST_START_S):
            return f"was not ready within {self._started_s:.0f} s"
        return None

    def _compare(self, elapsed_s: float, now: Activity | None) -> "_Progress":
        before, self._before = self._before, now
        if now is None or before is None:
            return _Progress(unknown=now is None or not now.stopped)
        if now.stopped or now.crashing:
            return _Progress()
        waited_s = min(elapsed_s, max(0.0, now.waited_s - before.waited_s))
        if now.on_disk or now.faults > before.faults:
            return _Progress(elapsed_s, waited_s)
        return _Progress(min(elapsed_s, max(0.0, now.ran_s - before.ran_s) + waited_s), waited_s)


@dataclass(frozen=True)
class _Progress:
    """The activity of a process between two looks.

    Attributes:
        busy_s: how long its threads ran, or waited for a CPU or a disk.
        waited_s: how long they waited for a CPU.
        unknown: the activity could not be read.
    """

    busy_s: float = 0.0
    waited_s: float = 0.0
    unknown: bool = False


def read_activity(
    pid: int, *, crash_handler: bool = False, children: bool = False, proc: Path = PROC
) -> Activity | None:
    """Return the activity of a process's threads, or None if it is gone or cannot be read.

    Args:
        pid: the process.
        crash_handler: look for a thread inside the handler of a fatal signal: there that signal is blocked, but not
            all fatal signals are, as they are in a thread that takes no signals.
        children: add the threads of its child processes, which do its work.
        proc: the process table.
    """
    ran_ns = waited_ns = faults = 0
    states = set()
    crashing = False
    try:
        threads = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return None
    for child in _find_children(pid, proc) if children else ():
        with contextlib.suppress(OSError):  # it ended in between
            threads += (proc / child / "task").iterdir()
    for thread in threads:
        try:
            ran, waited, _ = (thread / "schedstat").read_text().split()
            fields = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if crash_handler and not crashing:
                crashing = _handles_a_fatal_signal((thread / "status").read_text(errors="replace"))
        except FileNotFoundError:
            if not thread.exists():
                continue  # it ended in between
            return None
        except (OSError, ValueError):
            continue
        ran_ns, waited_ns, faults = ran_ns + int(ran), waited_ns + int(waited), faults + int(fields[9])
        states.add(fields[0])
    if not states:
        return None
    return Activity(
        ran_ns / 1e9, waited_ns / 1e9, faults, stopped=states <= STOPPED, on_disk="D" in states, crashing=crashing
    )


def _find_children(pid: int, proc: Path) -> list[str]:
    """Return the ids of a process's children; not every kernel lists them."""
    children = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1] == str(pid):
                    children.append(entry.name)
    return children


def _handles_a_fatal_signal(status: str) -> bool:
    blocked = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")), 0)
    fatal = [bool(blocked >> (number - 1) & 1) for number in FATAL_SIGNALS]
    return any(fatal) and not all(fatal)
