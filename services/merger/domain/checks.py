"""Checks of files and headers before heavy work; each returns a rejection or None.

They are needed because PEFT silently accepts missing keys, another base's LoRA, all-zero matrices, NaN and pickles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from contracts.facts import BaseModelRef
from decisions.checkpoints.adapters import ADAPTER_CONFIG
from decisions.checkpoints.architectures import architecture_of, assess_architecture, assess_unquantised
from decisions.checkpoints.rejection import Rejection

CheckpointKind = Literal["lora", "full"]

MODEL_CONFIG = "config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
# Dtypes of packed and rounded weights. I64 and BOOL are missing: models may hold counters and masks.
INTEGER_DTYPES = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "U64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"})


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a safetensors header; `dtype` is the format's name (`BF16`, `F32`, …)."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file: its tensors, or why it is unreadable."""

    path: str
    tensors: Mapping[str, TensorInfo]
    problem: str | None = None
    data_start: int = 0
    """Offset of the tensors' bytes, which are contiguous and in order."""


@dataclass(frozen=True)
class FolderMetadata:
    """File sizes, weight headers and configuration of a folder, without weights."""

    sizes: Mapping[str, int]
    weights: tuple[WeightsFile, ...]
    config: Mapping[str, Any] | None

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Return the tensors of all files, in file order."""
        return {name: info for file in self.weights for name, info in file.tensors.items()}

    def locate(self, name: str) -> tuple[str, int, TensorInfo]:
        """Return a tensor's file, offset and header entry."""
        file = next(file for file in self.weights if name in file.tensors)
        start = file.data_start
        for tensor, info in file.tensors.items():
            if tensor == name:
                return file.path, start, info
            start += info.size_bytes
        raise KeyError(name)


@dataclass(frozen=True)
class AdapterValues:
    """Findings about the values of a LoRA's tensors."""

    non_finite: tuple[str, ...]
    zero_modules: tuple[str, ...]
    modules: int
    has_other_weights: bool  # saved modules or magnitudes, which change a model without A and B


def assess_files(kind: CheckpointKind, sizes: Mapping[str, int]) -> Rejection | None:
    """Reject pickles, empty files, and folders without required files."""
    for path in sorted(sizes):
        if PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES:
            reason = f"{path} is a pickle."
            return Rejection("pickle_refused", reason, {"path": path})
    needed = [ADAPTER_CONFIG, ADAPTER_WEIGHTS] if kind == "lora" else [MODEL_CONFIG]
    missing = ", ".join(path for path in needed if path not in sizes)
    if missing:
        reason = f"The folder does not contain {missing}."
        return Rejection("artifact_not_found", reason, {"missing": missing})
    empty = [path for path in (*needed, WEIGHTS) if sizes.get(path) == 0]
    if empty:
        reason = f"{empty[0]} has 0 bytes."
        return Rejection("truncated_weights", reason, {"path": empty[0]})
    return assess_weights_present(sizes) if kind == "full" else None


def assess_weights_present(sizes: Mapping[str, int]) -> Rejection | None:
    """Reject a model folder from which transformers would load no weights."""
    if WEIGHTS in sizes or WEIGHTS_INDEX in sizes:
        return None
    reason = f"The folder contains neither {WEIGHTS} nor {WEIGHTS_INDEX}."
    return Rejection("artifact_not_found", reason, {"missing": WEIGHTS})


def assess_weights_files(files: Sequence[WeightsFile]) -> Rejection | None:
    """Reject unreadable weights files."""
    for file in files:
        if file.problem:
            reason = f"{file.path} is not usable: {file.problem}."
            return Rejection("truncated_weights", reason, {"path": file.path})
    return None


def assess_base_identity(declared: BaseModelRef, stored_digest: str) -> Rejection | None:
    """Reject a checkpoint whose declared base differs from the stored one."""
    if declared.digest == stored_digest:
        return None
    reason = f"The checkpoint was trained on {declared.name} {declared.digest}, but the store has {stored_digest}."
    return Rejection("base_mismatch", reason, {"declared": declared.digest, "found": stored_digest})


def assess_base_files(sizes: Mapping[str, int]) -> Rejection | None:
    """Reject a base without configuration or weights."""
    if MODEL_CONFIG in sizes:
        return assess_weights_present(sizes)
    reason = f"The base has no {MODEL_CONFIG}."
    return Rejection("unsupported_architecture", reason, {"missing": [MODEL_CONFIG]})


def assess_base(base: FolderMetadata) -> Rejection | None:
    """Reject architectures that cannot be merged, and quantised bases: rounding to 4 bits would lose the LoRA."""
    config = base.config or {}
    if config.get("transformers_weights"):
        reason = f"The base's config.json names its weights by transformers_weights; name them {WEIGHTS}."
        return Rejection("unsupported_architecture", reason)
    architecture = architecture_of(config)
    return (
        assess_unquantised("base", config)
        or (assess_architecture(architecture) if architecture is not None else None)
        or assess_quantised("base", base.tensors)
    )


def assess_quantised(owner: str, tensors: Mapping[str, TensorInfo]) -> Rejection | None:
    """Reject weights in a dtype of quantised weights."""
    for name, info in tensors.items():
        if info.dtype in INTEGER_DTYPES:
            reason = f"The {owner}'s tensor {name} is stored as {info.dtype}."
            return Rejection("quantised_base", reason, {"tensor": name, "dtype": info.dtype})
    return None


def assess_tied(adapted: Sequence[str], tied: Sequence[str]) -> Rejection | None:
    """Reject a change of one of two tied matrices: PEFT's merge would change both, or silently untie them.

    Args:
        adapted: Modules of this base that the LoRA changes.
        tied: Modules of this base that share one matrix.
    """
    affected = sorted(set(adapted) & set(tied))
    if not affected:
        return None
    reason = f"The LoRA changes {affected[0]}, which is tied in this base; leave it out of target_modules."
    return Rejection("tied_embedding_lora", reason, {"modules": affected})


def assess_adapter_tensors(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> Rejection | None:
    """Reject a LoRA unless its tensors are those that PEFT derives from its configuration on this base."""
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        reason = (
            f"{len(missing)} tensors of the LoRA are missing and {len(unexpected)} are unexpected on this base, "
            f"for example {(missing or unexpected)[0]}."
        )
        details = {"missing": missing[:5], "unexpected": unexpected[:5]}
        return Rejection("adapter_keys_mismatch", reason, details)
    return first_shape_mismatch(tensors, expected)


def base_tensor_name(name: str) -> str:
    """Return the base's name for a tensor that PEFT copied into a LoRA's file."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def duplicate_of(name: str) -> str | None:
    """Return the name that a tensor duplicates, because PEFT saves resized modules several times; None if none."""
    for inserted in (".modules_to_save.", ".original_module."):
        if inserted in name:
            return name.replace(inserted, ".")
    return None


def assess_base_copies(differing: Sequence[str]) -> Rejection | None:
    """Reject a LoRA that includes changed copies of base weights, such as the embedding."""
    if not differing:
        return None
    reason = f"The LoRA's file contains {differing[0]} with other values than this base."
    return Rejection("base_mismatch", reason, {"tensors": list(differing)})


def first_shape_mismatch(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], by: str = "this base"
) -> Rejection | None:
    """Reject the first tensor with an unexpected shape; `by` names the expectation's source in the reason."""
    for name in sorted(expected):
        if tensors[name].shape != expected[name]:
            actual, required = list(tensors[name].shape), list(expected[name])
            reason = f"{name} has shape {actual}, {by} needs {required}."
            return Rejection("shape_mismatch", reason, {"tensor": name, "found": actual, "expected": required})
    return None


def assess_adapter_values(values: AdapterValues) -> Rejection | None:
    """Reject a LoRA that contains NaN or infinity, or changes nothing."""
    rejection = assess_finite(values.non_finite)
    if rejection:
        return rejection
    if len(values.zero_modules) == values.modules and not values.has_other_weights:
        reason = f"The LoRA changes nothing: A or B is zero in all {values.modules} modules."
        return Rejection("adapter_is_zero", reason, {"modules": values.modules})
    return None


def assess_finite(non_finite: Sequence[str]) -> Rejection | None:
    """Reject weights with NaN or infinity."""
    if not non_finite:
        return None
    reason = f"{non_finite[0]} contains NaN or infinity ({len(non_finite)} such tensors)."
    return Rejection("non_finite_weights", reason, {"tensors": list(non_finite[:5])})
