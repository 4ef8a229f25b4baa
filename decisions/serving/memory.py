"""The memory that a loaded model reserves, and the share of a machine that all models may reserve."""

from typing import Final

_MIB = 1024 * 1024
OVERHEAD_BYTES: Final[dict[str, dict[str, int]]] = {
    "slipway": {"cpu": 3000 * _MIB, "gpu": 3072 * _MIB},
    "toy": {"cpu": 64 * _MIB, "gpu": 64 * _MIB},
}
"""By kind of engine and device: what one model takes besides its weights, that is interpreters, engine and cache.

vLLM on a CPU takes 2,900 MiB after 32 answers (docs/benchmarks.md), with a sixth of its key-value cache of 1 GiB in
use; the rest of the cache takes memory as it is used, from the share that `BUDGET_RATIO` leaves. On a GPU it is not
measured.
"""
WEIGHTS_RATIO: Final = 1.2
"""What a model's weights take in the engine, by the bytes of their files."""
BUDGET_RATIO: Final = 0.7
"""Share of the machine's memory that all models together may reserve by default."""


def reserved_bytes(weights_bytes: int, overhead_bytes: int, weights_ratio: float = WEIGHTS_RATIO) -> int:
    """Return the memory that a model reserves, in bytes."""
    return int(weights_bytes * weights_ratio) + overhead_bytes


def budget_bytes(total_bytes: int) -> int:
    """Return the bytes that all models on a machine may reserve together, by its memory."""
    return int(total_bytes * BUDGET_RATIO)
