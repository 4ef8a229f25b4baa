"""The checks before any heavy work: each is a pure function that returns a rejection or None.

PEFT itself silently accepts missing keys, another base's LoRA, all-zero matrices, NaN and pickles.
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
# What packed and rounded weights are stored as. I64 and BOOL are not: a model may hold counters and masks.
INTEGER_DTYPES = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "U64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"})


@dataclass(frozen=True)
class TensorInfo:
    """One tensor in the header of a safetensors file; `dtype` is the format's own name (`BF16`, `F32`, …)."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class WeightsFile:
    """One safetensors file: its tensors, or why it cannot be read."""

    path: str
    tensors: Mapping[str, TensorInfo]
    problem: str | None = None
    data_start: int = 0
    """Offset of the bytes of the tensors, which follow each other in order, without a gap."""


@dataclass(frozen=True)
class FolderMetadata:
    """Sizes, weight headers and configuration of a folder; no weight is loaded."""

    sizes: Mapping[str, int]
    weights: tuple[WeightsFile, ...]
    config: Mapping[str, Any] | None

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Return all tensors of all files, in the order of the files."""
        return {name: info for file in self.weights for name, info in file.tensors.items()}

    def locate(self, name: str) -> tuple[str, int, TensorInfo]:
        """Return the file that holds a tensor, and its offset and header entry there."""
        file = next(file for file in self.weights if name in file.tensors)
        start = file.data_start
        for tensor, info in file.tensors.items():
            if tensor == name:
                return file.path, start, info
            start += info.size_bytes
        raise KeyError(name)


@dataclass(frozen=True)
class AdapterValues:
    """Properties of the values of a LoRA's tensors."""

    non_finite: tuple[str, ...]
    zero_modules: tuple[str, ...]
    modules: int
    has_other_weights: bool  # saved modules or magnitudes, which may change a model without any A and B


def assess_files(kind: CheckpointKind, sizes: Mapping[str, int]) -> Rejection | None:
    """Reject pickles, empty files, and folders without the files that their kind needs."""
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
    """Reject a model's folder with neither weights nor an index; transformers would find no weights in it."""
    if WEIGHTS in sizes or WEIGHTS_INDEX in sizes:
        return None
    reason = f"The folder contains neither {WEIGHTS} nor {WEIGHTS_INDEX}."
    return Rejection("artifact_not_found", reason, {"missing": WEIGHTS})


def assess_weights_files(files: Sequence[WeightsFile]) -> Rejection | None:
    """Reject a file that its header does not describe."""
    for file in files:
        if file.problem:
            reason = f"{file.path} is not usable: {file.problem}."
            return Rejection("truncated_weights", reason, {"path": file.path})
    return None


def assess_base_identity(declared: BaseModelRef, stored_digest: str) -> Rejection | None:
    """Reject a checkpoint whose declared base differs from the store's."""
    if declared.digest == stored_digest:
        return None
    reason = f"The checkpoint was trained on {declared.name} {declared.digest}, but the store has {stored_digest}."
    return Rejection("base_mismatch", reason, {"declared": declared.digest, "found": stored_digest})


def assess_base_files(sizes: Mapping[str, int]) -> Rejection | None:
    """Reject a base without a configuration or without weights."""
    if MODEL_CONFIG in sizes:
        return assess_weights_present(sizes)
    reason = f"The base has no {MODEL_CONFIG}."
    return Rejection("unsupported_architecture", reason, {"missing": [MODEL_CONFIG]})


def assess_base(base: FolderMetadata) -> Rejection | None:
    """Reject architectures that cannot be merged, and quantised weights: rounding a sum to 4 bits loses the LoRA."""
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
    """Reject weights with a dtype of quantised weights."""
    for name, info in tensors.items():
        if info.dtype in INTEGER_DTYPES:
            reason = f"The {owner}'s tensor {name} is stored as {info.dtype}."
            return Rejection("quantised_base", reason, {"tensor": name, "dtype": info.dtype})
    return None


def assess_tied(adapted: Sequence[str], tied: Sequence[str]) -> Rejection | None:
    """Reject a change of one of two tied matrices: PEFT's merge changes both, or unties them silently.

    Args:
        adapted: Names of the modules that the LoRA changes, on this base.
        tied: Names of the modules that share one matrix in this base.
    """
    affected = sorted(set(adapted) & set(tied))
    if not affected:
        return None
    reason = f"The LoRA changes {affected[0]}, which is tied in this base; leave it out of target_modules."
    return Rejection("tied_embedding_lora", reason, {"modules": affected})


def assess_adapter_tensors(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> Rejection | None:
    """Reject a LoRA whose tensors are not those that PEFT derives from its configuration on this base."""
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
    """Return the name in the base of a tensor that PEFT copied into a LoRA's file."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def duplicate_of(name: str) -> str | None:
    """Return the tensor of a LoRA's file that another duplicates: PEFT saves resized modules several times."""
    for inserted in (".modules_to_save.", ".original_module."):
        if inserted in name:
            return name.replace(inserted, ".")
    return None


def assess_base_copies(differing: Sequence[str]) -> Rejection | None:
    """Reject a LoRA whose file includes a changed copy of the base's own weights, such as the embedding."""
    if not differing:
        return None
    reason = f"The LoRA's file contains {differing[0]} with other values than this base."
    return Rejection("base_mismatch", reason, {"tensors": list(differing)})


def first_shape_mismatch(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], by: str = "this base"
) -> Rejection | None:
    """Reject the first tensor with an unexpected shape; `by` names the source of the expectation in the reason."""
    for name in sorted(expected):
        if tensors[name].shape != expected[name]:
            actual, required = list(tensors[name].shape), list(expected[name])
            reason = f"{name} has shape {actual}, {by} needs {required}."
            return Rejection("shape_mismatch", reason, {"tensor": name, "found": actual, "expected": required})
    return None


def assess_adapter_values(values: AdapterValues) -> Rejection | None:
    """Reject a LoRA that contains NaN or infinity, and one that changes nothing."""
    rejection = assess_finite(values.non_finite)
    if rejection:
        return rejection
    if len(values.zero_modules) == values.modules and not values.has_other_weights:
        reason = f"The LoRA changes nothing: A or B is zero in all {values.modules} modules."
        return Rejection("adapter_is_zero", reason, {"modules": values.modules})
    return None


def assess_finite(non_finite: Sequence[str]) -> Rejection | None:
    """Reject weights with NaN or infinity, naming the first tensor."""
    if not non_finite:
        return None
    reason = f"{non_finite[0]} contains NaN or infinity ({len(non_finite)} such tensors)."
    return Rejection("non_finite_weights", reason, {"tensors": list(non_finite[:5])})
