"""The precision in which quality is measured, and whether the fast one agrees with float32."""

from collections.abc import Collection
from typing import Literal

from contracts.facts import PrecisionCheck, Processor, Quality

Precision = Literal["float32", "bfloat16"]

TOLERANCE = 0.005
"""Maximum difference of perplexities, relative to float32."""
KL_FLOOR_NATS = 0.002
"""From here on, mean KL is compared relative to float32; below, relative to this value: 0.00001 nats."""
MAX_ROUNDING_KL_NATS = 0.001
"""Maximum mean KL of the merged model from itself in float32. Products in bfloat16 move SmolLM2 by 0.0002 nats,
rounded rotary angles by 0.16."""
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
"""oneDNN's instruction sets, widest first, with the processor feature that each adds to the narrower ones."""
WITH_BFLOAT16 = frozenset(name for name, _ in INSTRUCTION_SETS[:4])
"""Those with products of bfloat16; with any other, such a product takes up to 500 times as long as in float32."""


def instruction_set(features: Collection[str], limit: str = "") -> str:
    """Return the widest instruction set that oneDNN uses; empty for a processor that has none of them.

    Args:
        features: Features of the processor, by their names in `torch.cpu.get_capabilities()`.
        limit: Value of `ONEDNN_MAX_CPU_ISA`; a value that is not in the list has no effect.
    """
    names = [name for name, _ in INSTRUCTION_SETS]
    first = names.index(limit.upper()) if limit.upper() in names else 0
    return next((name for name, needed in INSTRUCTION_SETS[first:] if needed in features), "")


def choose_precision(processor: Processor, *, activations: bool = False) -> Precision:
    """Return the precision of a measurement: bfloat16 on a CPU with instructions for it, else float32.

    It is float32 where `activations` are quantised: rounding these to bfloat16 first changes the perplexity of an int8
    by 0.9 %.
    """
    narrow = processor.device == "cpu" and processor.instruction_set in WITH_BFLOAT16
    return "bfloat16" if narrow and not activations else "float32"


def assess_precision(fast: Quality, exact: Quality, rounding_kl: float = 0.0) -> PrecisionCheck:
    """Return whether the figures of the fast precision agree with those of float32 on the same window.

    With f for fast and e for float32 they agree when

        |f - e| <= 0.005 * e                   for perplexity, the reference's perplexity, and their ratio, and
        |f - e| <= 0.005 * max(e, 0.002 nats)  for mean KL,

    and the merged model in the fast precision is at most 0.001 nats from itself in float32. Mean KL has a floor because
    its value may be 0 (a variant that is the merged model), so that no relative difference exists. A missing figure
    does not agree.

    Args:
        fast: Figures of the fast precision.
        exact: Figures of float32 on the same window.
        rounding_kl: Mean KL from the merged model in float32 to itself in the fast precision, in nats. It detects
            errors that both models share, which a comparison of the two cannot detect.
    """
    pairs = (
        ("perplexity", fast.perplexity, exact.perplexity, 0.0),
        ("reference perplexity", fast.reference_perplexity, exact.reference_perplexity, 0.0),
        ("perplexity ratio", fast.perplexity_ratio, exact.perplexity_ratio, 0.0),
        ("mean KL", fast.mean_kl, exact.mean_kl, KL_FLOOR_NATS),
        ("mean KL of the merged model from itself", rounding_kl, 0.0, MAX_ROUNDING_KL_NATS / TOLERANCE),
    )
    differences = [
        f"{name} {_figure(actual)} instead of {_figure(expected)}"
        for name, actual, expected, floor in pairs
        if not _agree(actual, expected, floor)
    ]
    where = f"on the {exact.tokens} tokens of the longest window"
    if differences:
        reason = f"bfloat16 differs from float32 {where}: {'; '.join(differences)}. The measurement uses float32."
        return PrecisionCheck(verdict="differed", reason=reason, fast=fast, exact=exact, rounding_kl=rounding_kl)
    reason = f"bfloat16 is within 0.5 % of float32 {where}, in perplexities and mean KL."
    return PrecisionCheck(verdict="agreed", reason=reason, fast=fast, exact=exact, rounding_kl=rounding_kl)


def _agree(actual: float | None, expected: float | None, floor: float) -> bool:
    if actual is None or expected is None:
        return False
    return abs(actual - expected) <= TOLERANCE * max(abs(expected), floor)


def _figure(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
