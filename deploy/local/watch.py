"""Decide whether a part hangs: by its silence, the activity of its threads, and the time since its start.

A part that is busy, or gets no CPU, is silent as well. So it has longer if its threads compute, or wait for a CPU or a
disk. Of a late look, only the regular interval counts.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
FATAL_SIGNALS = (4, 6, 7, 8, 11)
"""SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: a process that handles one of these is about to end."""
IDLE_RATIO = 0.01
"""Threads that ran, or waited for a CPU, for a smaller share of the time did nothing."""
UNREAD = 4
"""Looks without activity between two searches for a thread in a crash handler."""


@dataclass(frozen=True)
class HangLimits:
    """How long a part may be silent.

    Attributes:
        silent_s: how long it may be silent while its threads do nothing, or be in its crash handler.
        starved_s: how long it may be silent whatever they do.
        look_s: seconds between two looks.
    """

    silent_s: float = 5.0
    starved_s: float = 20.0
    look_s: float = 0.5


@dataclass(frozen=True)
class Activity:
    """The activity of a process's threads since it started, added up.

    Attributes:
        used_s: time on a CPU, or ready to run without one.
        on_disk: a thread waits for a disk.
        crashing: a thread is inside the handler of a fatal signal.
    """

    used_s: float = 0.0
    on_disk: bool = False
    crashing: bool = False


class HangDetector:
    """Accumulates observations of one process until they show that it hangs."""

    def __init__(self, limits: HangLimits, start_limit_s: float, *, crash_handler: bool = False) -> None:
        """Start without any observation; it must be ready within `start_limit_s`, and may have a crash handler."""
        self._limits = limits
        self._crash_handler, self._unread = crash_handler, 0
        self._start_limit_s = start_limit_s
        self._before: Activity | None = None
        self._silent_s = self._idle_s = self._starting_s = self._crashing_s = 0.0
        self._answered = False

    @property
    def needs_activity(self) -> bool:
        """Return whether the next look needs the process's activity, which costs milliseconds to read.

        It does while the process starts, while it is silent for longer than from one probe to the next, and while it
        is in its crash handler, for which every fifth look suffices: it may answer from there.
        """
        overdue = self._silent_s >= 3 * self._limits.look_s
        return not self._answered or overdue or self._crashing_s > 0 or (self._crash_handler and self._unread >= UNREAD)

    @property
    def has_answered(self) -> bool:
        """Return whether the process has ever answered."""
        return self._answered

    def answered(self) -> None:
        """Record an answer, which ends the silence."""
        self._answered = True
        self._silent_s = self._idle_s = 0.0

    def look(self, elapsed_s: float, activity: Activity | None, *, starting: bool) -> str | None:
        """Return why the part must be killed, or None.

        Args:
            elapsed_s: time since the last look.
            activity: the process's activity so far; None if it cannot be read.
            starting: it is not ready, and no other part is the cause.
        """
        elapsed_s = min(elapsed_s, 2 * self._limits.look_s)
        self._silent_s += elapsed_s
        self._idle_s = self._idle_s + elapsed_s if self._is_idle(elapsed_s, activity) else 0.0
        self._crashing_s = self._crashing_s + elapsed_s if activity is not None and activity.crashing else 0.0
        self._starting_s += elapsed_s if starting else 0.0
        self._before, self._unread = activity, self._unread + 1 if activity is None else 0
        limits = self._limits
        if self._crashing_s >= limits.silent_s:
            return f"has been in its crash handler for {self._crashing_s:.1f} s"
        if self._idle_s >= limits.silent_s and starting and not self._answered:
            return f"did nothing for {self._idle_s:.1f} s while it started"
        if self._idle_s >= limits.silent_s or (self._answered and self._silent_s >= limits.starved_s):
            return f"has not answered for {self._silent_s:.1f} s"
        if starting and self._starting_s >= self._start_limit_s:
            return f"was not ready within {self._starting_s:.0f} s"
        return None

    def _is_idle(self, elapsed_s: float, now: Activity | None) -> bool:
        if now is None or self._before is None or now.on_disk:
            return False
        return now.used_s - self._before.used_s <= IDLE_RATIO * elapsed_s


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
    used_ns, states, crashing = 0, "", False
    try:
        threads = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return None
    for child in _find_children(pid, proc) if children else ():
        with contextlib.suppress(OSError):  # it ended in between
            threads += (proc / child / "task").iterdir()
    for thread in threads:
        with contextlib.suppress(OSError, ValueError):  # it ended in between
            ran, waited, _ = (thread / "schedstat").read_text().split()
            states += (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            used_ns += int(ran) + int(waited)
            if crash_handler:
                crashing |= _handles_a_fatal_signal((thread / "status").read_text(errors="replace"))
    return Activity(used_ns / 1e9, on_disk="D" in states, crashing=crashing) if states else None


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
