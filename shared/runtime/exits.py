"""Describes the exit of a process: its exit code or signal in words, and whether memory ran out."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

MEANINGS: Mapping[int, str] = MappingProxyType(
    {
        signal.SIGILL: "it used an instruction that this CPU lacks, or is configured for another CPU's instruction set",
        signal.SIGABRT: "it aborted after an error that it could not handle, such as damaged memory; see its log",
        signal.SIGBUS: "it could not access memory backed by a file; /dev/shm or a disk is full, or a file was cut",
        signal.SIGFPE: "it divided by zero or made another arithmetic error",
        signal.SIGSEGV: "it accessed invalid memory, which is a defect of the program or of a library",
        signal.SIGKILL: "it was killed from outside, or by the kernel because memory ran out",
        signal.SIGTERM: "it was requested to end",
        signal.SIGINT: "it was interrupted from the keyboard",
        signal.SIGHUP: "its terminal was closed",
        signal.SIGPIPE: "the pipe or socket that it wrote to was closed",
        signal.SIGSYS: "it made a system call that its sandbox forbids",
        signal.SIGXCPU: "it used more processor time than its limit",
        signal.SIGXFSZ: "it wrote a file larger than its limit",
    }
)
"""Usual cause of the exit by each signal."""

OUT_OF_MEMORY = "perhaps the kernel killed it: memory ran out in this control group just before"
_SHELL_BASE = 128
_CODES = re.compile(
    r"((?:exit ?code|exit status|returncode)s?[ :=]+|Engine\w*': ?|Worker\w*': ?)-(\d{1,2})\b", re.IGNORECASE
)


def describe_exit(code: int, *, out_of_memory: bool = False) -> str:
    """Return a process's exit as text; for a signal, its name and usual cause.

    Args:
        code: exit code; negative is the signal, as in `subprocess`.
        out_of_memory: the kernel killed a process of the same control group for memory just before.
    """
    if code < 0:
        return _describe_signal(-code, out_of_memory=out_of_memory)
    number = code - _SHELL_BASE
    if number in MEANINGS:
        described = _describe_signal(number, out_of_memory=out_of_memory)
        return f"exit code {code}, which shells and containers give for {described}"
    return f"exit code {code}"


def _describe_signal(number: int, *, out_of_memory: bool = False) -> str:
    name = signal_name(number)
    if number == signal.SIGKILL and out_of_memory:
        return f"signal {name}: {OUT_OF_MEMORY}"
    meaning = MEANINGS.get(number)
    return f"signal {name}: {meaning}" if meaning else f"signal {name}"


def signal_name(number: int) -> str:
    """Return the name of a signal; its number if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def explain_codes(text: str) -> str:
    """Return another program's message with the signal's name after each negative exit code."""

    def explain(match: re.Match[str]) -> str:
        return f"{match[0]} ({_describe_signal(int(match[2]))})"

    return _CODES.sub(explain, text)


@dataclass(frozen=True)
class ControlGroup:
    """A control group that limits memory.

    Attributes:
        top: the mount point of the hierarchy.
        group: its folder.
        version: 1 or 2.
    """

    top: Path
    group: Path
    version: int


def control_groups(root: Path = Path("/")) -> list[ControlGroup]:
    """Return the control groups of this process that limit memory."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, version = root / "sys/fs/cgroup", 2
        elif "memory" in controllers.split(","):
            top, version = root / "sys/fs/cgroup/memory", 1
        else:
            continue
        groups.append(ControlGroup(top, top / name.lstrip("/"), version))
    return groups


def count_memory_kills(root: Path = Path("/")) -> int:
    """Return the number of processes that the kernel has killed for memory, in this control group if there is one."""
    for path in _counters(root):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
        if counts:
            return counts[0]
    return 0


def _counters(root: Path) -> list[Path]:
    files = {2: "memory.events", 1: "memory.oom_control"}
    # In a container the named group may not be mounted; its own counter is then at the mount point.
    counters = [folder / files[group.version] for group in control_groups(root) for folder in (group.group, group.top)]
    return [*counters, root / "proc/vmstat"]
