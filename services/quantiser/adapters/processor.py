"""What computes here: run as a script; reports to its parent by `shared.runtime.jobs`."""

import os
from typing import Any

import torch

from contracts.facts import Processor
from services.quantiser.domain import instruction_set
from shared.runtime.jobs import job_main

LIMIT = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own variable; it has no function to ask what became of it."""


def device() -> str:
    """Return the kind of accelerator to use, or `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_processor() -> Processor:
    """Return what torch computes with in this process."""
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    if device() != "cpu":
        name = torch.cuda.get_device_name()
        return Processor(device=name, instruction_set="", capability=capability, amx=False, threads=threads)
    features = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    found = instruction_set(features, os.environ.get(LIMIT, ""))
    return Processor(device="cpu", instruction_set=found, capability=capability, amx="AMX" in found, threads=threads)


def work(_arguments: list[str]) -> dict[str, Any]:
    """Return the processor as the parent reads it."""
    return this_processor().model_dump(mode="json")


if __name__ == "__main__":
    job_main(work)
