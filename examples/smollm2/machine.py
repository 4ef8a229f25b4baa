"""Measures what other work leaves of this machine, and says how slow its engines will be."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import monotonic, process_time

WANTED = 2
"""Cores that two engines and the services keep busy."""
EMULATED = 2.0
"""How much slower engines are, at least, without AVX-512 for bfloat16."""


@dataclass(frozen=True)
class Machine:
    """What the demo has of this machine.

    Attributes:
        free_cores: How many of the two cores that it wants it gets beside other work.
        has_bfloat16: Whether the CPU computes in bfloat16.
    """

    free_cores: float
    has_bfloat16: bool

    @property
    def slowness(self) -> float:
        """Return by which factor engines are slower than on two quiet cores with bfloat16."""
        return WANTED / self.free_cores * (1.0 if self.has_bfloat16 else EMULATED)

    def __str__(self) -> str:
        return f"{self.free_cores:.1f} cores free, {'with' if self.has_bfloat16 else 'without'} AVX-512 for bfloat16"


QUIET = Machine(WANTED, has_bfloat16=True)


def this_machine(seconds: float = 2.0) -> Machine:
    """Measure this machine by keeping its cores busy for some seconds."""
    block, started, used = bytes(1 << 20), monotonic(), process_time()

    def compute() -> None:
        while monotonic() - started < seconds:
            hashlib.sha256(block)  # without the interpreter's lock

    threads = [Thread(target=compute) for _ in range(min(WANTED, len(os.sched_getaffinity(0))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    free = (process_time() - used) / (monotonic() - started)
    return Machine(free, "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8"))
