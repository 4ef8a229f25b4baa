"""Starts the process that does the heavy work: it can be killed, and dies with this one."""

import importlib.metadata
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from contracts.facts import Parity
from services.merger.ports import MergeOrder, Progress, Verification
from shared.jobs import run_job

LIBRARIES = ("accelerate", "peft", "safetensors", "torch", "transformers")
MODULE = "services.merger.adapters.work"
Task = Literal["merge", "verify"]


class ChildProcess:
    """Runs each merge and each verification in a process of its own."""

    def __init__(
        self, *, log_path: Path, threads: int | None, memory_limit_bytes: int | None, timeout_s: float
    ) -> None:
        self._log_path = log_path
        self._threads = threads
        self._memory_limit_bytes = memory_limit_bytes
        self._timeout_s = timeout_s

    def library_versions(self) -> dict[str, str]:
        """Give the versions of the libraries that decide the bytes of a merge, without a build label."""
        return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}

    async def merge(self, order: MergeOrder, progress: Progress) -> int:
        """Check a checkpoint and write the merged model; give the peak memory in bytes."""
        found = await self._run("merge", order, progress)
        return int(found["peak_rss_bytes"])

    async def verify(self, order: MergeOrder, progress: Progress) -> Verification:
        """Compare what came back from the store with what went in."""
        found = await self._run("verify", order, progress)
        return replace(Verification(**found), parity=Parity.model_validate(found["parity"]))

    async def _run(self, task: Task, order: MergeOrder, progress: Progress) -> dict[str, Any]:
        async def tell(fields: dict[str, Any]) -> None:
            progress(fields["step"], fields["done"], fields["total"], fields["unit"])

        environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        return await run_job(
            [sys.executable, "-m", MODULE, task, dump_order(order)], on_progress=tell, log_path=self._log_path,
            memory_limit_bytes=self._memory_limit_bytes, timeout_s=self._timeout_s, env=environment,
        )  # fmt: skip


def dump_order(order: MergeOrder) -> str:
    """Serialise an order for the command line of the child."""
    return json.dumps({**asdict(order), "base_ref": order.base_ref.model_dump(mode="json")}, default=str)
