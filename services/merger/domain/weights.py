"""Checks that a model's files contain each weight of its architecture exactly once, and nothing else."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decisions.checkpoints.rejection import Rejection
from services.merger.domain.checks import WEIGHTS_INDEX, TensorInfo, WeightsFile, first_shape_mismatch

FLOATING_DTYPES = frozenset({"BF16", "F16", "F32", "F64"})


@dataclass(frozen=True)
class ExpectedTensors:
    """The tensors that a model's configuration implies.

    Attributes:
        shapes: Shape by name.
        floating: Names of floating-point tensors.
        aliases: Names that files may omit, because a tied tensor is the same matrix.
    """

    shapes: Mapping[str, tuple[int, ...]]
    floating: frozenset[str]
    aliases: frozenset[str]


def assess_index(index: Mapping[str, Any] | None, sizes: Mapping[str, int]) -> Rejection | None:
    """Reject an index that does not name files of its folder.

    Args:
        index: Content of `WEIGHTS_INDEX`; None if it is no JSON object.
        sizes: File sizes of the folder.
    """
    named = (index or {}).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(path, str) for path in named.values()):
        reason = f"{WEIGHTS_INDEX} has no weight_map that names files."
        return Rejection("truncated_weights", reason, {"path": WEIGHTS_INDEX})
    missing = sorted(set(named.values()) - sizes.keys())
    if missing:
        reason = f"{WEIGHTS_INDEX} names {missing[0]}, which is not in the folder."
        return Rejection("artifact_not_found", reason, {"missing": missing[0]})
    return None


def assess_distinct(files: Sequence[WeightsFile]) -> Rejection | None:
    """Reject a tensor in two files, because loaders may use either."""
    holders: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in holders:
                reason = f"{name} is in {holders[name]} and in {file.path}; save the weights again."
                return Rejection("truncated_weights", reason, {"tensor": name, "paths": [holders[name], file.path]})
            holders[name] = file.path
    return None


def assess_base_tensors(base: Mapping[str, TensorInfo], expected: ExpectedTensors) -> Rejection | None:
    """Reject a base whose files do not hold the weights that its configuration implies.

    On loading, missing tensors would be initialised at random and unknown ones skipped silently: then files or
    configuration belong to another model.
    """
    missing = sorted(expected.shapes.keys() - expected.aliases - base.keys())
    if missing:
        reason = f"The base's files lack {len(missing)} weights of its architecture, for example {missing[0]}."
        return Rejection("unsupported_architecture", reason, {"missing": missing[:5]})
    unknown = sorted(base.keys() - expected.shapes.keys())
    if unknown:
        reason = f"The base's files have {len(unknown)} tensors unknown to its config.json, for example {unknown[0]}."
        return Rejection("unsupported_architecture", reason, {"unexpected": unknown[:5]})
    shapes = {name: expected.shapes[name] for name in base}
    return assess_floating(base, expected) or first_shape_mismatch(base, shapes, "the base's config.json")


def assess_floating(tensors: Mapping[str, TensorInfo], expected: ExpectedTensors) -> Rejection | None:
    """Reject a weight stored as integers or booleans."""
    for name, info in tensors.items():
        if name in expected.floating and info.dtype not in FLOATING_DTYPES:
            reason = f"{name} is stored as {info.dtype}, not as floating point."
            return Rejection("quantised_base", reason, {"tensor": name, "dtype": info.dtype})
    return None


def assess_adapter_dtypes(tensors: Mapping[str, TensorInfo]) -> Rejection | None:
    """Reject a LoRA with tensors that are not floating point."""
    for name, info in tensors.items():
        if info.dtype not in FLOATING_DTYPES:
            reason = f"{name} is stored as {info.dtype}; a LoRA is saved as {', '.join(sorted(FLOATING_DTYPES))}."
            return Rejection("unsupported_adapter", reason, {"tensor": name, "dtype": info.dtype})
    return None


def without(tensors: Mapping[str, TensorInfo], ignored: Collection[str]) -> dict[str, TensorInfo]:
    """Return the tensors without those that the model does not load."""
    return {name: info for name, info in tensors.items() if name not in ignored}
