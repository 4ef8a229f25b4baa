"""Starts the process that does the heavy work: it can be killed, and dies with this one."""

import importlib.metadata
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contracts.facts import Parity
from contracts.manifests import FileEntry
from services.merger.ports import Made, MergeOrder, Progress, Rendering
from shared.runtime.jobs import run_job

LIBRARIES = ("accelerate", "peft", "safetensors", "torch", "transformers")
MODULE = "services.merger.adapters.worker"
MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(256 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
"""glibc keeps what is freed for the next tensor, in one arena: fresh pages would cost more than the merge does."""


class ChildProcess:
    """Runs each merge in a process of its own."""

    def __init__(
        self, *, log_path: Path, threads: int | None, memory_limit_bytes: int | None, timeout_s: float
    ) -> None:
        self._log_path = log_path
        self._threads = threads
        self._memory_limit_bytes = memory_limit_bytes
        self._timeout_s = timeout_s

    def library_versions(self) -> dict[str, str]:
        """Return the versions of the libraries that decide the bytes of a merge, without a build label."""
        return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}

    async def make(self, order: MergeOrder, progress: Progress) -> Made:
        """Check a checkpoint, put the merged model into the store, and compare it there with what went in."""

        async def tell(fields: dict[str, Any]) -> None:
            progress(fields["step"], fields["done"], fields["total"], fields["unit"])

        environment = {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **MEMORY,
            "OMP_WAIT_POLICY": "PASSIVE",  # or threads spin while the store's server needs the same cores
        }
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        path = order.room / "order.json"
        path.write_text(dump_order(order), encoding="utf-8")
        found = await run_job(
            [sys.executable, "-m", MODULE, str(path)],
            on_progress=tell,
            log_path=self._log_path,
            memory_limit_bytes=self._memory_limit_bytes,
            timeout_s=self._timeout_s,
            env=environment,
            at_timeout="Give the merger more cores (MERGER_THREADS) or more time (MERGER_TIMEOUT_S).",
        )
        return parse_made(found)


def dump_order(order: MergeOrder) -> str:
    """Serialise an order for the child: lists of files are too long for its command line."""

    def plain(one: Any) -> Any:
        return str(one) if isinstance(one, Path) else one.model_dump(mode="json")

    return json.dumps(asdict(order), default=plain)


def parse_made(found: dict[str, Any]) -> Made:
    """Read the child's result."""
    files = tuple(FileEntry.model_validate(file) for file in found["files"])
    return Made(
        files=files,
        parity=Parity.model_validate(found["parity"]),
        own_tokenizer=found["own_tokenizer"],
        rendering=Rendering(**found["rendering"]),
        expected_rendering=Rendering(**found["expected_rendering"]),
        peak_rss_bytes=found["peak_rss_bytes"],
    )
