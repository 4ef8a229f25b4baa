"""Detects the serving hardware: the GPUs of this machine, else its CPU."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

from services.server_manager.domain.servable_variants import Hardware, weakest

QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader")
TIMEOUT_S = 20.0
CPU_INFO = Path("/proc/cpuinfo")


async def detect_hardware() -> Hardware:
    """Return the GPU with the lowest compute capability (`nvidia-smi`); without a driver, the CPU."""
    try:
        process = await asyncio.create_subprocess_exec(
            *QUERY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return detect_cpu()
    try:
        listed, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return detect_cpu()
    gpus = parse_gpus(listed.decode(errors="replace"))
    gpu = weakest(gpus)
    return replace(gpu, devices=len(gpus)) if gpu is not None else detect_cpu()


def parse_gpus(listed: str) -> list[Hardware]:
    """Return the GPUs in lines such as `NVIDIA L4, 8.9`; other lines are ignored."""
    gpus = []
    for line in listed.splitlines():
        name, _, capability = line.rpartition(",")
        major, _, minor = capability.strip().partition(".")
        if name and major.isdecimal() and minor.isdecimal():
            gpus.append(Hardware(capability=(int(major), int(minor)), name=name.strip()))
    return gpus


def detect_cpu() -> Hardware:
    """Return the CPU with its model name from `/proc/cpuinfo`."""
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return Hardware(name=value.strip())
    return Hardware()
