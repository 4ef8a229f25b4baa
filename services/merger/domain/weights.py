"""Whether the files of a model hold its weights: each once, all that its architecture knows, and nothing else."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.merger.domain.checks import WEIGHTS_INDEX, Refusal, TensorInfo, WeightsFile, first_shape_mismatch

FLOATING_DTYPES = frozenset({"BF16", "F16", "F32", "F64"})


@dataclass(frozen=True)
class Known:
    """The tensors that a model has, by its configuration.

    Attributes:
        shapes: Of all of them.
        floating: Those that hold floating point.
        aliases: Those that need not be in a file: another one is the same matrix.
    """

    shapes: Mapping[str, tuple[int, ...]]
    floating: frozenset[str]
    aliases: frozenset[str]


def assess_index(index: Mapping[str, Any] | None, sizes: Mapping[str, int]) -> Refusal | None:
    """Refuse an index that does not name files of its folder.

    Args:
        index: What `WEIGHTS_INDEX` holds; None when that is no JSON object.
        sizes: Of the folder's files.
    """
    named = (index or {}).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(path, str) for path in named.values()):
        reason = f"{WEIGHTS_INDEX} has no weight_map that names files."
        return Refusal("truncated_weights", reason, {"path": WEIGHTS_INDEX})
    missing = sorted(set(named.values()) - sizes.keys())
    if missing:
        reason = f"{WEIGHTS_INDEX} names {missing[0]}, which the folder does not hold."
        return Refusal("artifact_not_found", reason, {"missing": missing[0]})
    return None


def assess_distinct(files: Sequence[WeightsFile]) -> Refusal | None:
    """Refuse a tensor that two files hold: which one a loader takes is chance."""
    holders: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in holders:
                reason = f"{name} is in {holders[name]} and in {file.path}; save the weights again."
                return Refusal("truncated_weights", reason, {"tensor": name, "paths": [holders[name], file.path]})
            holders[name] = file.path
    return None


def assess_base_tensors(base: Mapping[str, TensorInfo], known: Known) -> Refusal | None:
    """Refuse a base whose files are not the weights of the architecture that its configuration speaks of.

    What is missing would be initialised at random on loading. What the architecture does not know would be left out
    without a word: then files or configuration are another model's, and an engine may read them differently.
    """
    missing = sorted(known.shapes.keys() - known.aliases - base.keys())
    if missing:
        reason = f"The base's files do not hold {len(missing)} weights of its architecture, for example {missing[0]}."
        return Refusal("unsupported_architecture", reason, {"missing": missing[:5]})
    unknown = sorted(base.keys() - known.shapes.keys())
    if unknown:
        reason = f"The base's files hold {len(unknown)} tensors unknown to its config.json, for example {unknown[0]}."
        return Refusal("unsupported_architecture", reason, {"unexpected": unknown[:5]})
    shapes = {name: known.shapes[name] for name in base}
    return assess_floating(base, known) or first_shape_mismatch(base, shapes, "the base's config.json")


def assess_floating(found: Mapping[str, TensorInfo], known: Known) -> Refusal | None:
    """Refuse a weight that is stored as whole numbers or truth values."""
    for name, info in found.items():
        if name in known.floating and info.dtype not in FLOATING_DTYPES:
            reason = f"{name} is stored as {info.dtype}, not as floating point."
            return Refusal("quantised_base", reason, {"tensor": name, "dtype": info.dtype})
    return None


def assess_adapter_dtypes(found: Mapping[str, TensorInfo]) -> Refusal | None:
    """Refuse a LoRA whose matrices are not stored as floating point."""
    for name, info in found.items():
        if info.dtype not in FLOATING_DTYPES:
            reason = f"{name} is stored as {info.dtype}; a LoRA is saved as {', '.join(sorted(FLOATING_DTYPES))}."
            return Refusal("unsupported_adapter", reason, {"tensor": name, "dtype": info.dtype})
    return None


def without(tensors: Mapping[str, TensorInfo], ignored: Collection[str]) -> dict[str, TensorInfo]:
    """Leave out the tensors that a model does not load."""
    return {name: info for name, info in tensors.items() if name not in ignored}
