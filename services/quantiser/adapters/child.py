"""Starts the process that does the heavy work: it can be killed, and dies with this one."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from contracts.facts import EngineVersion, Processor
from services.quantiser.domain import OUTPUT_FORMAT, QuantisationPlan
from services.quantiser.ports import Made, Order, Progress
from shared.errors import Transient
from shared.runtime.jobs import run_job

MODULE = "services.quantiser.adapters.quantise_worker"
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


class ChildProcess:
    """Runs each quantisation in a process of its own."""

    def __init__(
        self, *, log_path: Path, threads: int | None, memory_limit_bytes: int | None, timeout_s: float
    ) -> None:
        self._log_path = log_path
        self._threads = threads
        self._memory_limit_bytes = memory_limit_bytes
        self._timeout_s = timeout_s
        self._processor: Processor | None = None

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Name the library that makes a plan's output, with its version."""
        if plan.engine in ("autoawq", "llmcompressor"):
            return EngineVersion(name=plan.engine, version=_version(plan.engine))
        return EngineVersion(name=plan.engine, version=str(OUTPUT_FORMAT))

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Return the versions of the libraries that decide a plan's output and figures, without a build label."""
        return {name: _version(name) for name in LIBRARIES[plan.engine]}

    async def processor(self) -> Processor:
        """Return what torch computes with, asked once in a child: this process does not load torch."""
        if self._processor is None:
            found = await run_job(
                [sys.executable, "-m", PROCESSOR_MODULE],
                on_progress=_ignore,
                log_path=self._log_path.with_name("processor.log"),
                timeout_s=PROCESSOR_TIMEOUT_S,
                env=self._environment(),
            )
            self._processor = Processor.model_validate(found)
        return self._processor

    async def quantise(self, order: Order, progress: Progress) -> Made:
        """Write the variant to `order.output` and measure it."""

        async def tell(fields: dict[str, Any]) -> None:
            progress(fields["step"], fields["done"], fields["total"], fields["unit"])

        found = await run_job(
            [sys.executable, "-m", MODULE, order.model_dump_json()],
            on_progress=tell,
            log_path=self._log_path,
            memory_limit_bytes=self._memory_limit_bytes,
            timeout_s=self._timeout_s,
            env=self._environment(),
            at_timeout="Give the quantiser more cores (QUANTISER_THREADS) or more time (QUANTISER_TIMEOUT_S).",
        )
        made, expected = Made.model_validate(found), self._processor
        if expected is not None and made.measurement.processor != expected:
            self._processor = None
            reason = f"The work was done on {made.measurement.processor}, not on {expected}; it is done again."
            raise Transient("engine_failed", reason)
        return made

    def _environment(self) -> dict[str, str]:
        """Return the variables of a child; threads that are known are fixed, so that they stay those of the key."""
        threads = self._processor.threads if self._processor else self._threads
        return ENVIRONMENT if threads is None else {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}


async def _ignore(_fields: dict[str, Any]) -> None:
    """Ignore what a child reports."""


def _version(library: str) -> str:
    return importlib.metadata.version(library).partition("+")[0]
