"""Starts the process that does the heavy work: it can be killed, and dies with this one."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from contracts.facts import EngineVersion
from services.quantiser.domain import OUTPUT_FORMAT, QuantisationPlan
from services.quantiser.ports import Made, Order, Progress
from shared.jobs import run_job

MODULE = "services.quantiser.adapters.quantise_worker"
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

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Name the library that makes a plan's output, with its version."""
        if plan.engine in ("autoawq", "llmcompressor"):
            return EngineVersion(name=plan.engine, version=_version(plan.engine))
        return EngineVersion(name=plan.engine, version=str(OUTPUT_FORMAT))

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Give the versions of the libraries that decide a plan's output and figures, without a build label."""
        return {name: _version(name) for name in LIBRARIES[plan.engine]}

    async def quantise(self, order: Order, progress: Progress) -> Made:
        """Write the variant to `order.output` and measure it."""

        async def tell(fields: dict[str, Any]) -> None:
            progress(fields["step"], fields["done"], fields["total"], fields["unit"])

        environment = dict(ENVIRONMENT)
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        found = await run_job(
            [sys.executable, "-m", MODULE, order.model_dump_json()], on_progress=tell, log_path=self._log_path,
            memory_limit_bytes=self._memory_limit_bytes, timeout_s=self._timeout_s, env=environment,
            at_timeout="Give the quantiser more cores (QUANTISER_THREADS) or more time (QUANTISER_TIMEOUT_S).",
        )  # fmt: skip
        return Made.model_validate(found)


def _version(library: str) -> str:
    return importlib.metadata.version(library).partition("+")[0]
