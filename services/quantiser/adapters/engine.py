"""The quantisation engine: each job runs in a worker process, which can be killed and dies with the service."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from contracts.facts import EngineVersion, Processor
from services.quantiser.domain import OUTPUT_FORMAT, Device, QuantisationPlan, device_environment
from services.quantiser.ports import QuantisationJob, QuantisationResult
from shared.errors import Transient
from shared.runtime.jobs import Worker
from shared.runtime.progress import ReportProgress

WORKER_MODULE = "services.quantiser.adapters.quantise_worker"
PROCESSOR_MODULE = "services.quantiser.adapters.processor"
PROCESSOR_TIMEOUT_S = 120.0
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
    """Runs each quantisation in a worker process (implements `ports.Engine`)."""

    def __init__(
        self,
        *,
        log_path: Path,
        threads: int | None,
        memory_limit_bytes: int | None,
        timeout_s: float,
        device: Device = "auto",
    ) -> None:
        environment = {**ENVIRONMENT, **device_environment(device)}
        self._worker = Worker(
            module=WORKER_MODULE,
            log_path=log_path,
            environment=environment,
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            timeout_s=timeout_s,
            at_timeout="Give the quantiser more cores (QUANTISER_THREADS) or more time (QUANTISER_TIMEOUT_S).",
        )
        self._processor_probe = Worker(
            module=PROCESSOR_MODULE,
            log_path=log_path.with_name("processor.log"),
            environment=environment,
            threads=threads,
            timeout_s=PROCESSOR_TIMEOUT_S,
        )
        self._processor: Processor | None = None

    def environments(self) -> list[Mapping[str, str]]:
        """Return the variables that each kind of worker gets in addition to those of the service."""
        return [worker.environment for worker in (self._worker, self._processor_probe)]

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Return the library that makes a plan's output, with its version."""
        if plan.engine in ("autoawq", "llmcompressor"):
            return EngineVersion(name=plan.engine, version=_version(plan.engine))
        return EngineVersion(name=plan.engine, version=str(OUTPUT_FORMAT))

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Return the versions, without build label, of the libraries that decide a plan's output and figures."""
        return {name: _version(name) for name in LIBRARIES[plan.engine]}

    async def processor(self) -> Processor:
        """Return the processor that torch uses; a worker detects it once, because the service does not load torch."""
        if self._processor is None:
            self._processor = Processor.model_validate(await self._processor_probe.run())
        return self._processor

    async def quantise(self, job: QuantisationJob, progress: ReportProgress) -> QuantisationResult:
        """Write the variant to `job.output` and measure it (see `ports.Engine`)."""
        expected = self._processor
        # The number of threads is part of the output key, so a detected number is fixed for the work.
        worker = self._worker if expected is None else replace(self._worker, threads=expected.threads)
        result = QuantisationResult.model_validate(
            await worker.run([job.model_dump_json()], progress, scratch=job.output.with_name("temporary"))
        )
        actual = result.measurement.processor
        if expected is not None and actual != expected:
            self._processor = None
            reason = f"The work ran on {actual}, not on {expected} as its output key says; it is done again."
            raise Transient("engine_failed", reason)
        return result


def _version(library: str) -> str:
    return importlib.metadata.version(library).partition("+")[0]
