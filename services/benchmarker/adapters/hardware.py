"""Reads this machine's hardware from the kernel."""

import os
import platform
import re
from pathlib import Path

from services.benchmarker.domain.hardware import Hardware


def read_hardware(*, declared: str = "", proc: Path = Path("/proc")) -> Hardware:
    """Return this machine's hardware.

    Args:
        declared: Name of the serving fleet's hardware, if another machine serves.
        proc: Mount point of procfs.
    """
    return Hardware(
        cpu=parse_cpu(_text(proc / "cpuinfo")) or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=parse_memory_bytes(_text(proc / "meminfo")),
        gpus=tuple(sorted(parse_gpu(_text(path)) for path in proc.glob("driver/nvidia/gpus/*/information"))),
        declared=declared,
    )


def parse_cpu(cpuinfo: str) -> str:
    """Return the CPU model; empty if the kernel names none (some ARM machines)."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def parse_memory_bytes(meminfo: str) -> int:
    """Return the machine's memory in bytes; 0 if unknown."""
    match = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def parse_gpu(information: str) -> str:
    """Return the model of an NVIDIA device."""
    match = re.search(r"^Model:\s*(.+)$", information, re.MULTILINE)
    return match[1].strip() if match else "unknown GPU"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
