"""The merge engine: each merge runs in a worker process, which can be killed and dies with the service."""

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contracts.facts import Parity
from contracts.manifests import FileEntry
from services.merger.adapters.store_server import served
from services.merger.ports import MergeJob, MergeResult, Rendering
from shared.runtime.jobs import Worker
from shared.runtime.progress import ReportProgress
from shared.storage.blobs import Store

LIBRARIES = ("accelerate", "peft", "safetensors", "torch", "transformers")
MODULE = "services.merger.adapters.worker"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc keeps freed memory for the next tensor, in one arena: fresh pages would cost more than the merge does.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would take the cores that the store's server needs
}


class WorkerEngine:
    """Runs each merge in a worker process (implements `ports.MergeEngine`)."""

    def __init__(
        self, store: Store, *, log_path: Path, threads: int | None, memory_limit_bytes: int | None, timeout_s: float
    ) -> None:
        self._store = store
        self._worker = Worker(
            module=MODULE,
            log_path=log_path,
            environment=ENVIRONMENT,
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            timeout_s=timeout_s,
            at_timeout="Give the merger more cores (MERGER_THREADS) or more time (MERGER_TIMEOUT_S).",
        )

    def library_versions(self) -> dict[str, str]:
        """Return the versions, without build label, of the libraries that decide the bytes of a merge."""
        return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}

    async def merge(self, job: MergeJob, progress: ReportProgress) -> MergeResult:
        """Return the merged model, stored and verified (see `ports.MergeEngine`)."""
        path = job.scratch_dir / "job.json"
        path.write_text(dump_job(job), encoding="utf-8")
        with served(self._store, job) as (server, descriptors):
            arguments = [str(path), *map(str, descriptors)]
            result = await self._worker.run(arguments, progress, scratch=job.scratch_dir, descriptors=descriptors)
            merged = parse_result(result)
            server.check_results(merged.files)
        return merged


def dump_job(job: MergeJob) -> str:
    """Return a job as JSON, for a file: lists of files are too long for a command line."""

    def to_json(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value.model_dump(mode="json")

    return json.dumps(asdict(job), default=to_json)


def parse_result(fields: dict[str, Any]) -> MergeResult:
    """Return the result that the worker reported."""
    return MergeResult(
        files=tuple(FileEntry.model_validate(file) for file in fields["files"]),
        parity=Parity.model_validate(fields["parity"]),
        tokenizer=fields["tokenizer"],
        rendering=Rendering(**fields["rendering"]),
        expected_rendering=Rendering(**fields["expected_rendering"]),
        peak_rss_bytes=fields["peak_rss_bytes"],
        quantised_base=fields["quantised_base"],
    )
