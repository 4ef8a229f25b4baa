"""The precisions, each declared once in `PRECISIONS`: method and runtimes (docs/extending.md)."""

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
        method: How it is quantised; the quantiser's `compression.py` has the steps of each.
        scheme: Its preset in compressed-tensors; None for 16 bit.
        grouped: Weights share a scale in groups of input channels, which must divide the layers' widths; without
            calibration, only the others can be made, by rounding to nearest.
        samples: Calibration windows by default, chosen by the figures in docs/benchmarks.md; 0 if it takes none.
        tokens: Length of such a window.
        perplexity_ratio: The gate in the policy that `slipway policy init` writes; None for no gate.
        capability: The lowest compute capability that serves it. Everything outside of quantised products is computed
            in bfloat16, which needs 8.0.
        on_cpu: vLLM serves it on a CPU without emulating its products.
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
