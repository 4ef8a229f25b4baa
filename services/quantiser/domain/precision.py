"""In which precision quality is measured, and whether the fast one can be believed."""

from collections.abc import Collection
from typing import Literal

from contracts.facts import PrecisionCheck, Processor, Quality

Precision = Literal["float32", "bfloat16"]

TOLERANCE = 0.005
"""How far perplexities may be apart, relative to float32."""
KL_FLOOR_NATS = 0.002
"""Mean KL is compared relative to float32 from here on; below, relative to this: 0.00001 nats."""
MAX_ROUNDING_KL_NATS = 0.001
"""How far the merged model may be from itself in float32. Products in bfloat16 move SmolLM2 by 0.0002 nats, rounded
rotary angles by 0.16."""
INSTRUCTION_SETS = (
    ("AVX512_CORE_AMX_FP16", "amx_fp16"),
    ("AVX512_CORE_AMX", "amx_bf16"),
    ("AVX512_CORE_FP16", "avx512_fp16"),
    ("AVX512_CORE_BF16", "avx512_bf16"),
    ("AVX512_CORE_VNNI", "avx512_vnni"),
    ("AVX512_CORE", "avx512_bw"),
    ("AVX2_VNNI_2", "avx_ne_convert"),
    ("AVX2_VNNI", "avx_vnni"),
    ("AVX2", "avx2"),
    ("AVX", "avx"),
    ("SSE41", "sse4_1"),
)
"""oneDNN's instruction sets, widest first, each with the processor feature that it needs besides the narrower ones."""
WITH_BFLOAT16 = frozenset(name for name, _ in INSTRUCTION_SETS[:4])
"""Those with products of bfloat16; without them such a product takes up to 500 times as long as one of float32."""


def instruction_set(features: Collection[str], limit: str = "") -> str:
    """Return the widest instruction set that oneDNN uses; empty for a processor that has none of them.

    Args:
        features: What the processor has, in the terms of `torch.cpu.get_capabilities()`.
        limit: Value of `ONEDNN_MAX_CPU_ISA`; one that is not in the list limits nothing.
    """
    names = [name for name, _ in INSTRUCTION_SETS]
    first = names.index(limit.upper()) if limit.upper() in names else 0
    return next((name for name, needed in INSTRUCTION_SETS[first:] if needed in features), "")


def choose_precision(processor: Processor) -> Precision:
    """Return what to measure in: bfloat16 on a CPU with instructions for it, else float32."""
    return "bfloat16" if processor.device == "cpu" and processor.instruction_set in WITH_BFLOAT16 else "float32"


def assess_precision(fast: Quality, exact: Quality, rounding_kl: float = 0.0) -> PrecisionCheck:
    """Return whether figures of the fast precision hold, given those of float32 on the same window.

    With f for fast and e for float32 they agree when

        |f - e| <= 0.005 * e                   for perplexity, the reference's perplexity, and their ratio, and
        |f - e| <= 0.005 * max(e, 0.002 nats)  for mean KL,

    and the merged model in the fast precision is at most 0.001 nats from itself in float32. Mean KL has a floor because
    its value may be 0 (a variant that is the merged model), where no relative difference exists. A figure that is
    absent does not agree.

    Args:
        fast: Figures of the fast precision.
        exact: Figures of float32 on the same window.
        rounding_kl: Mean KL from the merged model in float32 to itself in the fast precision, in nats. It shows what a
            comparison of two models that are wrong in the same way cannot show.
    """
    pairs = (
        ("perplexity", fast.perplexity, exact.perplexity, 0.0),
        ("reference perplexity", fast.reference_perplexity, exact.reference_perplexity, 0.0),
        ("perplexity ratio", fast.perplexity_ratio, exact.perplexity_ratio, 0.0),
        ("mean KL", fast.mean_kl, exact.mean_kl, KL_FLOOR_NATS),
        ("mean KL of the merged model from itself", rounding_kl, 0.0, MAX_ROUNDING_KL_NATS / TOLERANCE),
    )
    apart = [
        f"{name} {_figure(found)} instead of {_figure(expected)}"
        for name, found, expected, floor in pairs
        if not _agree(found, expected, floor)
    ]
    where = f"on the {exact.tokens} tokens of the longest window"
    if apart:
        reason = f"bfloat16 is too far off float32 {where}: {'; '.join(apart)}. All of it is float32."
        return PrecisionCheck(verdict="differed", reason=reason, fast=fast, exact=exact, rounding_kl=rounding_kl)
    reason = f"bfloat16 is within 0.5 % of float32 {where}, in perplexities and mean KL."
    return PrecisionCheck(verdict="agreed", reason=reason, fast=fast, exact=exact, rounding_kl=rounding_kl)


def _agree(found: float | None, expected: float | None, floor: float) -> bool:
    if found is None or expected is None:
        return False
    return abs(found - expected) <= TOLERANCE * max(abs(expected), floor)


def _figure(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
