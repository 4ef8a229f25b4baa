"""The engine's defaults by device, and the environment variables that must be set before vLLM is imported."""

import locale
import multiprocessing
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
_ALWAYS = {"disable_log_stats": False}  # the times of a request come with them; vLLM logs them at a level that is off
ENGINE_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"dtype": "bfloat16", "enforce_eager": True, **_ALWAYS},
    "gpu": {"dtype": "auto", **_ALWAYS},
}
"""Engine arguments by device. A GPU computes in the type of the files, and vLLM captures its graphs."""
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
}
ENVIRONMENT_DEFAULTS: dict[str, dict[str, str]] = {
    "cpu": {
        **_ENVIRONMENT,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Costs 0.05 ms of a step with one answer of 49,152 logits, and 0.7 ms with 32.
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
    },
    "gpu": _ENVIRONMENT,
}
"""Variables by device. NaN are not counted on GPUs, where the cost is unknown."""
NEVER_SET = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_API_KEY",
    "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION",
    "VLLM_ENABLE_RESPONSES_API_STORE",
    "VLLM_SERVER_DEV_MODE",
)
"""Variables that would enable further endpoints, store texts, require vLLM's own API key, or confuse requests with the
same `x-request-id`."""


def prepare(device: str, overrides: dict[str, str], *, eager: bool) -> None:
    """Set the environment variables of vLLM and torch, before vllm is imported.

    In an eager engine compilation is disabled: at the first scoring of a prompt it would take many seconds for a
    counting function that is as fast without.
    """
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    refused = [name for name in overrides if not name.startswith(("VLLM_", "OMP_"))]
    if refused:
        raise pb_utils.TritonModelException(f"environment sets {refused}: only VLLM_* and OMP_* variables are allowed")
    os.environ.update(ENVIRONMENT_DEFAULTS[device])
    if eager:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    os.environ.update({name: str(value) for name, value in overrides.items()})
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # the stub has threads, which a fork would not survive
    for name in NEVER_SET:
        os.environ.pop(name, None)


def tie_children_to_this_process() -> None:
    """Make every process that vLLM spawns die with this stub."""
    python = Path(os.environ["VIRTUAL_ENV"]) / "bin" / "python"
    os.environ["SLIPWAY_ENGINE_PYTHON"] = str(python)
    os.environ["SLIPWAY_ENGINE_PARENT"] = str(os.getpid())
    multiprocessing.set_executable(str(HERE / "engine_child.sh"))
