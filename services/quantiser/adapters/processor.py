"""Detects the processor that torch uses; run as a worker of `shared.runtime.jobs`."""

import os
from typing import Any

import torch

from contracts.facts import Processor
from services.quantiser.domain import choose_device, instruction_set
from shared.runtime.worker import job_main

LIMIT = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own variable; oneDNN has no function that returns its effect."""


def device() -> str:
    """Return the kind of accelerator to use, or `cpu`."""
    return choose_device(has_cuda=torch.cuda.is_available())


def this_processor() -> Processor:
    """Return the processor that torch uses in this process."""
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    if device() != "cpu":
        name = torch.cuda.get_device_name()
        return Processor(device=name, instruction_set="", capability=capability, amx=False, threads=threads)
    features = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    widest = instruction_set(features, os.environ.get(LIMIT, ""))
    return Processor(device="cpu", instruction_set=widest, capability=capability, amx="AMX" in widest, threads=threads)


def work(_arguments: list[str]) -> dict[str, Any]:
    """Return the processor as JSON data."""
    return this_processor().model_dump(mode="json")


if __name__ == "__main__":
    job_main(work)
