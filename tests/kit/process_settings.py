"""Settings that hold for a whole process: what they are now, and which of them a test has left changed."""

import locale
import os
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "LC_ALL",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
)
AS_IMPORTED: dict[str, Any] = {
    "torch.backends.fp32_precision": "none",
    "torch.backends.mkldnn.fp32_precision": "none",
    "torch.backends.mkldnn.matmul.fp32_precision": "none",
    "torch.backends.mkldnn.conv.fp32_precision": "none",
    "torch.backends.mkldnn.rnn.fp32_precision": "none",
    "torch.backends.cuda.matmul.fp32_precision": "none",
    "torch.default_dtype": "torch.float32",
    "torch.deterministic_algorithms": False,
    "torch.grad": True,
    "torch.inference_mode": False,
    "torch.autocast on the CPU": False,
    "torch.function_modes": 0,
}
"""What torch has right after its import."""


def process_settings() -> dict[str, Any]:
    """Return the settings by name; torch's only where it is loaded."""
    current: dict[str, Any] = {
        "locale": locale.setlocale(locale.LC_ALL),
        "working folder": str(Path.cwd()),
        **{f"environment {name}": os.environ.get(name) for name in ENVIRONMENT},
    }
    if "torch" not in sys.modules:
        return current
    import torch
    from torch.overrides import _len_torch_function_stack

    return current | {
        "torch.backends.fp32_precision": torch.backends.fp32_precision,
        "torch.backends.mkldnn.fp32_precision": torch.backends.mkldnn.fp32_precision,
        "torch.backends.mkldnn.matmul.fp32_precision": torch.backends.mkldnn.matmul.fp32_precision,
        "torch.backends.mkldnn.conv.fp32_precision": torch.backends.mkldnn.conv.fp32_precision,
        "torch.backends.mkldnn.rnn.fp32_precision": torch.backends.mkldnn.rnn.fp32_precision,
        "torch.backends.cuda.matmul.fp32_precision": torch.backends.cuda.matmul.fp32_precision,
        "torch.default_dtype": str(torch.get_default_dtype()),
        "torch.deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch.grad": torch.is_grad_enabled(),
        "torch.inference_mode": torch.is_inference_mode_enabled(),
        "torch.autocast on the CPU": torch.is_autocast_enabled("cpu"),
        "torch.function_modes": _len_torch_function_stack(),
        "torch.threads": torch.get_num_threads(),
    }


def left_behind(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what differs, a sentence each; a library that was loaded meanwhile has to be as it is imported."""
    expected = {**AS_IMPORTED, **before}
    return [
        f"{name} was {expected[name]!r} and is {value!r}"
        for name, value in after.items()
        if name in expected and value != expected[name]
    ]
