"""The precisions of variants: quantisation method and hardware (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Variant = Literal["bf16", "int8", "fp8", "gptq-int4", "awq-int4"]
Method = Literal["none", "round-to-nearest", "smoothquant-gptq", "gptq", "awq"]
Capability = tuple[int, int]
"""Compute capability of an NVIDIA GPU: (8, 9) is Ada, (9, 0) Hopper."""


@dataclass(frozen=True)
class Precision:
    """A precision.

    Attributes:
        method: Quantisation method; `compression.py` of the quantiser has its steps.
        scheme: Preset of compressed-tensors; None for 16 bit.
        grouped: Whether groups of input channels share a scale: group sizes must divide the layers' widths, and
            calibration is required.
        samples: Default number of calibration windows (docs/benchmarks.md); 0 without calibration.
        tokens: Tokens of a calibration window.
        perplexity_ratio: Gate in the policy of `slipway policy init`; None for no gate.
        capability: Lowest compute capability that serves it; bfloat16 outside of quantised products needs 8.0.
        on_cpu: Whether vLLM computes its products on a CPU without emulation.
    """

    method: Method
    scheme: str | None = None
    grouped: bool = False
    samples: int = 0
    tokens: int = 384
    perplexity_ratio: float | None = None
    capability: Capability = (8, 0)
    on_cpu: bool = True


PRECISIONS: Final[Mapping[Variant, Precision]] = {
    "bf16": Precision("none"),
    "int8": Precision("smoothquant-gptq", "W8A8", samples=16, perplexity_ratio=1.05),
    # Activations are scaled as they come. Below 8.9 vLLM rounds none of them, which is not what was measured; on a CPU
    # it emulates the products: measured, a tenth of bf16's tokens per second (docs/precisions.md).
    "fp8": Precision("round-to-nearest", "FP8_DYNAMIC", perplexity_ratio=1.05, capability=(8, 9), on_cpu=False),
    "gptq-int4": Precision("gptq", "W4A16", grouped=True, samples=32, tokens=512, perplexity_ratio=1.35),
    # AWQ tries 20 scales per layer on every sample.
    "awq-int4": Precision("awq", "W4A16_ASYM", grouped=True, samples=4, tokens=512, perplexity_ratio=1.25),
}
