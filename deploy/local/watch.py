"""Decides from what is seen of a part whether it hangs: its silence, what its threads do, how long its start takes.

Silence alone does not tell a part that hangs from one that is busy or gets no processor. So time in which its threads
compute, or wait for a processor or a disk, does not count, up to a limit; of a late look only as much counts as a look
in time would have seen. What is stopped by a signal, or in its crash handler, has no excuse.
"""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
FATAL_SIGNALS = (4, 6, 7, 8, 11)
"""SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: a program that handles one of these is about to end."""
STOPPED = frozenset("T")
LONGEST_START_S = 600.0
"""How long a start may take while it makes progress that counts: see `Judge`."""
IDLE_RATIO, PROGRESS_RATIO = 0.01, 0.1
"""Threads that ran or waited for a processor for a smaller part of the time were idle, or made no progress."""


@dataclass(frozen=True)
class Patience:
    """How long a part may be silent.

    Attributes:
        silent_s: how long it may be silent once it has answered, be idle while it starts, or be in its crash handler.
        starved_s: how long it may be silent if its threads compute, or wait for a processor or a disk.
        look_s: time between two looks.
    """

    silent_s: float = 5.0
    starved_s: float = 20.0
    look_s: float = 0.5


@dataclass(frozen=True)
class Activity:
    """What the threads of a process have done since it started, added up.

    Attributes:
        ran_s: time on a processor.
        waited_s: time ready to run, without a processor.
        faults: pages that were read from a disk.
        stopped: it is stopped by a signal.
        on_disk: a thread waits for a disk.
        crashing: a thread is inside the handler of a fatal signal.
    """

    ran_s: float = 0.0
    waited_s: float = 0.0
    faults: int = 0
    stopped: bool = False
    on_disk: bool = False
    crashing: bool = False


class Judge:
    """Adds up the looks at one process until they say that it hangs."""

    def __init__(self, patience: Patience, start_limit_s: float, leaving_s: float, *, recovers: bool = False) -> None:
        """Prepare to judge.

        Args:
            patience: how long it may be silent.
            start_limit_s: how long its start may take.
            leaving_s: how long it may take to end after it closed its port.
            recovers: it reads its store when it starts: while that makes progress, the limit is `LONGEST_START_S`.
        """
        self._patience = patience
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
    def wants_activity(self) -> bool:
        """Return whether the next look needs to know what the process does: while it starts and while it is silent."""
        return not self._answered or self._starved_s > 0.0

    @property
    def has_answered(self) -> bool:
        """Return whether there was an answer at all."""
        return self._answered

    def answered(self) -> None:
        """Note an answer: the silence is over."""
        self._answered, self._answered_now, self._refused = True, True, False
        self._silent_s = self._starved_s = 0.0

    def refused(self) -> None:
        """Note that nothing listens: a part that has answered before is ending, and has the time of a stop for that."""
        self._refused = True

    def look(
        self, elapsed_s: float, activity: Activity | None, *, ready: bool, based: bool, waits_for_others: bool = False
    ) -> str | None:
        """Return why the part must be killed, or None.

        Args:
            elapsed_s: time since the last look.
            activity: what the process has done by now; None if it cannot be read.
            ready: the part has been ready.
            based: all that it stands on is ready; without it a start is not judged.
            waits_for_others: it answers, and says that it is not ready because of another part.
        """
        elapsed_s = min(elapsed_s, 2 * self._patience.look_s)
        did = self._compare(elapsed_s, activity)
        crashing = activity is not None and activity.crashing
        self._crashing_s = self._crashing_s + elapsed_s if crashing else 0.0
        if not self._answered_now:
            self._starved_s += elapsed_s
            self._silent_s += elapsed_s - did.busy_s
        self._answered_now = False
        if not ready and based:
            self._starting_s += elapsed_s - did.waited_s
            self._started_s += elapsed_s
            busy = did.busy_s > IDLE_RATIO * elapsed_s or did.unknown
            self._idle_s = 0.0 if busy or self._answered else self._idle_s + elapsed_s
            progress = waits_for_others or (self._recovers and did.busy_s > PROGRESS_RATIO * elapsed_s)
            self._stalled_s = 0.0 if progress else self._stalled_s + elapsed_s
        return self._judge(ready)

    def _judge(self, ready: bool) -> str | None:
        patience = self._patience
        if self._crashing_s >= patience.silent_s:
            return f"has been in its crash handler for {self._crashing_s:.1f} s"
        if self._answered:
            more = self._leaving_s if self._refused else 0.0
            what = "does not listen any more" if self._refused else "has not answered"
            if self._silent_s >= patience.silent_s + more or self._starved_s >= patience.starved_s + more:
                return f"{what} for {self._starved_s:.1f} s"
        elif self._idle_s >= patience.silent_s:
            return f"did nothing for {self._idle_s:.1f} s while it started"
        if not ready and self._starting_s >= self._start_limit_s and self._stalled_s >= patience.silent_s:
            return f"was not ready within {self._starting_s:.0f} s"
        if not ready and self._started_s >= max(self._start_limit_s, LONGEST_START_S):
            return f"was not ready within {self._started_s:.0f} s"
        return None

    def _compare(self, elapsed_s: float, now: Activity | None) -> "_Did":
        before, self._before = self._before, now
        if now is None or before is None:
            return _Did(unknown=now is None or not now.stopped)
        if now.stopped or now.crashing:
            return _Did()
        waited_s = min(elapsed_s, max(0.0, now.waited_s - before.waited_s))
        if now.on_disk or now.faults > before.faults:
            return _Did(elapsed_s, waited_s)
        return _Did(min(elapsed_s, max(0.0, now.ran_s - before.ran_s) + waited_s), waited_s)


@dataclass(frozen=True)
class _Did:
    """What a process did between two looks.

    Attributes:
        busy_s: how long its threads ran, or waited for a processor or a disk.
        waited_s: how long they waited for a processor.
        unknown: it cannot be told.
    """

    busy_s: float = 0.0
    waited_s: float = 0.0
    unknown: bool = False


def read_activity(pid: int, *, crash_handler: bool = False, proc: Path = PROC) -> Activity | None:
    """Return what the threads of a process have done; None if it is gone or the kernel does not say.

    Args:
        pid: the process.
        crash_handler: look whether a thread is inside the handler of a fatal signal: the signal is blocked there, and
            not all of them are, as in a thread that takes no signals.
        proc: the process table.
    """
    ran_ns = waited_ns = faults = 0
    states = set()
    crashing = False
    try:
        threads = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return None
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


def _handles_a_fatal_signal(status: str) -> bool:
    blocked = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")), 0)
    fatal = [bool(blocked >> (number - 1) & 1) for number in FATAL_SIGNALS]
    return any(fatal) and not all(fatal)
