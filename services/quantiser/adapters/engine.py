"""The quantisation engine: runs each job in a worker process, which can be killed and dies with the service."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from contracts.facts import EngineVersion
from services.quantiser.domain import OUTPUT_FORMAT, Device, QuantisationPlan, device_environment
from services.quantiser.ports import QuantisationJob, QuantisationResult
from shared.runtime.jobs import Worker
from shared.runtime.progress import ReportProgress

WORKER_MODULE = "services.quantiser.adapters.quantise_worker"
MEASURING = ("tokenizers", "torch", "transformers")
LIBRARIES: dict[str, tuple[str, ...]] = {
    "pass-through": MEASURING,
    "cast": ("safetensors", *MEASURING),
    "autoawq": ("autoawq", "safetensors", *MEASURING),
    "llmcompressor": ("compressed-tensors", "llmcompressor", "safetensors", *MEASURING),
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


class WorkerEngine:
    """Runs quantisations in worker processes (implements `ports.Engine`)."""

    def __init__(
        self,
        *,
        log_path: Path,
        threads: int | None,
        memory_limit_bytes: int | None,
        timeout_s: float,
        device: Device = "auto",
    ) -> None:
        self._worker = Worker(
            module=WORKER_MODULE,
            log_path=log_path,
            environment={**ENVIRONMENT, **device_environment(device)},
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            timeout_s=timeout_s,
            at_timeout="Give the quantiser more cores (QUANTISER_THREADS) or more time (QUANTISER_TIMEOUT_S).",
        )

    def environments(self) -> list[Mapping[str, str]]:
        """Return the worker's additional environment variables."""
        return [self._worker.environment]

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Return name and version of the engine that makes a plan's output."""
        if plan.engine in ("autoawq", "llmcompressor"):
            return EngineVersion(name=plan.engine, version=_version(plan.engine))
        return EngineVersion(name=plan.engine, version=str(OUTPUT_FORMAT))

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Return versions, without build labels, of the libraries that determine a plan's output and figures."""
        return {name: _version(name) for name in LIBRARIES[plan.engine]}

    async def quantise(self, job: QuantisationJob, progress: ReportProgress) -> QuantisationResult:
        """Write the variant to `job.output` and measure it (see `ports.Engine`)."""
        data = await self._worker.run([job.model_dump_json()], progress, scratch=job.output.with_name("temporary"))
        return QuantisationResult.model_validate(data)


def _version(library: str) -> str:
    return importlib.metadata.version(library).partition("+")[0]
