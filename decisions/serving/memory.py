"""Memory reservations of loaded models."""

from typing import Final

_MIB = 1024 * 1024
OVERHEAD_BYTES: Final[dict[str, dict[str, int]]] = {
    "slipway": {"cpu": 3000 * _MIB, "gpu": 3072 * _MIB},
    "toy": {"cpu": 64 * _MIB, "gpu": 64 * _MIB},
}
"""Memory of a model besides its weights (interpreters, engine, cache), by kind of engine and device.

vLLM on a CPU takes 2,900 MiB after 32 answers (docs/benchmarks.md) with a sixth of its 1 GiB key-value cache in use;
the rest of the cache comes from the share that `BUDGET_RATIO` leaves. Not measured on GPUs.
"""
WEIGHTS_RATIO: Final = 1.2
"""Memory of weights in the engine, relative to their files."""
BUDGET_RATIO: Final = 0.7
"""Default share of the machine's memory that all models may reserve together."""


def reserved_bytes(weights_bytes: int, overhead_bytes: int, weights_ratio: float = WEIGHTS_RATIO) -> int:
    """Return the memory that a model reserves, in bytes."""
    return int(weights_bytes * weights_ratio) + overhead_bytes


def budget_bytes(total_bytes: int) -> int:
    """Return the bytes that all models on a machine may reserve together by default."""
    return int(total_bytes * BUDGET_RATIO)
