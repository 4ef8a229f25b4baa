"""Reads what this machine is from the kernel."""

import os
import platform
import re
from pathlib import Path

from services.benchmarker.domain.hardware import Hardware


def read_hardware(*, declared: str = "", proc: Path = Path("/proc")) -> Hardware:
    """Describe this machine.

    Args:
        declared: Name of the serving fleet's hardware where it is another machine.
        proc: Where the kernel's process file system is.
    """
    return Hardware(
        cpu=parse_cpu(_text(proc / "cpuinfo")) or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=parse_memory_bytes(_text(proc / "meminfo")),
        gpus=tuple(sorted(parse_gpu(_text(path)) for path in proc.glob("driver/nvidia/gpus/*/information"))),
        declared=declared,
    )


def parse_cpu(cpuinfo: str) -> str:
    """Find the processor's model; empty where the kernel names none (some ARM machines)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def parse_memory_bytes(meminfo: str) -> int:
    """Find the machine's memory; 0 where it is not told."""
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def parse_gpu(information: str) -> str:
    """Find the model of one NVIDIA device."""
    found = re.search(r"^Model:\s*(.+)$", information, re.MULTILINE)
    return found[1].strip() if found else "unknown GPU"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
