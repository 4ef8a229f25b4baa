"""What is refused before any heavy work: each check is a pure function, and each refusal says what to do.

PEFT itself accepts silently: missing keys, another base's LoRA, all-zero matrices, NaN, pickles.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from contracts.codes import Code
from contracts.facts import BaseModelRef

Kind = Literal["lora", "full"]

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
# What packed and rounded weights are stored as. I64 and BOOL are not: a model may hold counters and masks.
INTEGER_DTYPES = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "U64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"})
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
# Initialisations that also change the base's weights: the LoRA alone does not describe such a model.
BASE_CHANGING_INITIALISATIONS = ("pissa", "olora", "corda", "loftq", "lora_ga")
UNSUPPORTED_SETTINGS = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
)


@dataclass(frozen=True)
class Refusal:
    """Why a checkpoint goes no further."""

    code: Code
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorInfo:
    """What the header of a safetensors file says of one tensor; `dtype` in its words (`BF16`, `F32` ...)."""

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
    """Where the bytes of the tensors begin; they follow each other in order, without a gap."""


@dataclass(frozen=True)
class FolderFacts:
    """What can be known of a folder without loading a weight."""

    sizes: Mapping[str, int]
    weights: tuple[WeightsFile, ...]
    config: Mapping[str, Any] | None

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """All tensors of all files, in the order of the files."""
        return {name: info for file in self.weights for name, info in file.tensors.items()}

    def locate(self, name: str) -> tuple[str, int, TensorInfo]:
        """Return the file that holds a tensor, and where in it."""
        file = next(file for file in self.weights if name in file.tensors)
        start = file.data_start
        for before, info in file.tensors.items():
            if before == name:
                return file.path, start, info
            start += info.size_bytes
        raise KeyError(name)


@dataclass(frozen=True)
class AdapterValues:
    """What a look at the values of a LoRA found."""

    non_finite: tuple[str, ...]
    idle_modules: tuple[str, ...]
    modules: int
    has_other_weights: bool  # saved modules or magnitudes, which may change a model without any A and B


def assess_files(kind: Kind, sizes: Mapping[str, int]) -> Refusal | None:
    """Refuse pickles, empty files and folders without what its kind needs."""
    for path in sorted(sizes):
        if PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES:
            return Refusal("pickle_refused", f"{path} is a pickle.", {"path": path})
    needed = [ADAPTER_CONFIG, ADAPTER_WEIGHTS] if kind == "lora" else [MODEL_CONFIG]
    missing = ", ".join(path for path in needed if path not in sizes)
    if missing:
        return Refusal("artifact_not_found", f"The folder does not hold {missing}.", {"missing": missing})
    empty = [path for path in (*needed, WEIGHTS) if sizes.get(path) == 0]
    if empty:
        return Refusal("truncated_weights", f"{empty[0]} has 0 bytes.", {"path": empty[0]})
    return assess_weights_there(sizes) if kind == "full" else None


def assess_weights_there(sizes: Mapping[str, int]) -> Refusal | None:
    """Refuse a model's folder in which nothing says which files are its weights; transformers would find none."""
    if WEIGHTS in sizes or WEIGHTS_INDEX in sizes:
        return None
    reason = f"The folder holds neither {WEIGHTS} nor {WEIGHTS_INDEX}."
    return Refusal("artifact_not_found", reason, {"missing": WEIGHTS})


def assess_weights_files(files: Sequence[WeightsFile]) -> Refusal | None:
    """Refuse a file that does not hold what its header promises."""
    for file in files:
        if file.problem:
            reason = f"{file.path}: {file.problem}."
            return Refusal("truncated_weights", reason, {"path": file.path})
    return None


def assess_base_identity(declared: BaseModelRef, found_digest: str) -> Refusal | None:
    """Refuse a checkpoint whose declared base is not the one in the store."""
    if declared.digest == found_digest:
        return None
    reason = f"The checkpoint was trained on {declared.name} {declared.digest}, but the store holds {found_digest}."
    return Refusal("base_mismatch", reason, {"declared": declared.digest, "found": found_digest})


def assess_base_files(sizes: Mapping[str, int]) -> Refusal | None:
    """Refuse a base without a configuration or without weights."""
    if MODEL_CONFIG in sizes:
        return assess_weights_there(sizes)
    return Refusal("unsupported_architecture", f"The base has no {MODEL_CONFIG}.", {"missing": [MODEL_CONFIG]})


def assess_base(base: FolderFacts) -> Refusal | None:
    """Refuse to merge into quantised weights: rounding a sum to a 4-bit grid loses the LoRA."""
    if base.config and base.config.get("quantization_config"):
        return Refusal("quantised_base", "The base's config.json has a quantization_config.")
    if base.config and base.config.get("transformers_weights"):
        reason = f"The base's config.json names its weights by transformers_weights; name them {WEIGHTS}."
        return Refusal("unsupported_architecture", reason)
    return assess_quantised("base", base.tensors)


def assess_quantised(whose: str, tensors: Mapping[str, TensorInfo]) -> Refusal | None:
    """Refuse weights that are stored as what packed and rounded ones are."""
    for name, info in tensors.items():
        if info.dtype in INTEGER_DTYPES:
            reason = f"The {whose}'s tensor {name} is stored as {info.dtype}."
            return Refusal("quantised_base", reason, {"tensor": name, "dtype": info.dtype})
    return None


def assess_adapter_config(adapter: Mapping[str, Any], base: BaseModelRef) -> Refusal | None:
    """Refuse other kinds of PEFT than LoRA, and what says that it belongs to another base."""
    if adapter.get("peft_type") != "LORA":
        kind = adapter.get("peft_type")
        return Refusal("unsupported_adapter", f"Its peft_type is {kind!r}; only LORA can be merged.")
    used = [key for key in UNSUPPORTED_SETTINGS if adapter.get(key)]
    if adapter.get("bias", "none") != "none":
        used.append("bias")
    if used:
        return Refusal("unsupported_adapter", f"It uses {', '.join(used)}, which cannot be merged.", {"settings": used})
    start = str(adapter.get("init_lora_weights", "")).lower()
    if start.startswith(BASE_CHANGING_INITIALISATIONS):
        reason = f"Its initialisation {start} changed the base's weights, too: convert it to a plain LoRA when saving."
        return Refusal("base_mismatch", reason, {"init_lora_weights": start})
    named = str(adapter.get("base_model_name_or_path") or "")
    if HUB_NAME.match(named) and bare_name(named) != bare_name(base.name):
        reason = f"{ADAPTER_CONFIG} names the base {named}, the event {base.name}: correct the one that is wrong."
        return Refusal("base_mismatch", reason, {"adapter": named, "event": base.name})
    return None


def assess_tied(adapted: Sequence[str], tied: Sequence[str]) -> Refusal | None:
    """Refuse to change one of two tied matrices: PEFT's merge changes both, or unties them unseen.

    Args:
        adapted: Names of the modules that the LoRA changes, on this base.
        tied: Names of the modules that share one matrix in this base.
    """
    hit = sorted(set(adapted) & set(tied))
    if not hit:
        return None
    reason = f"The LoRA changes {hit[0]}, which is tied in this base."
    return Refusal("tied_embedding_lora", reason, {"modules": hit})


def assess_adapter_tensors(found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> Refusal | None:
    """Hold a LoRA's tensors against those that its configuration yields on this base."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        reason = (
            f"{len(missing)} tensors are missing and {len(unexpected)} are unexpected on this base, "
            f"for example {(missing or unexpected)[0]}."
        )
        details = {"missing": missing[:5], "unexpected": unexpected[:5]}
        return Refusal("adapter_keys_mismatch", reason, details)
    return first_shape_mismatch(found, expected)


def base_tensor_name(name: str) -> str:
    """Return the name in the base of a tensor that PEFT copied into a LoRA's file."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def twin_of(name: str) -> str | None:
    """Return the tensor of a LoRA's file that another is a mere copy of: PEFT saves resized modules several times."""
    for inserted in (".modules_to_save.", ".original_module."):
        if inserted in name:
            return name.replace(inserted, ".")
    return None


def assess_base_copies(differing: Sequence[str]) -> Refusal | None:
    """Refuse a LoRA whose file brings a changed copy of the base's own weights along, such as a resized embedding."""
    if not differing:
        return None
    reason = f"The LoRA's file holds another {differing[0]} than this base."
    return Refusal("base_mismatch", reason, {"tensors": list(differing)})


def first_shape_mismatch(
    found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], by: str = "this base"
) -> Refusal | None:
    """Find the first tensor whose shape does not fit the base; `by` says in a sentence what needs another one."""
    for name in sorted(expected):
        if found[name].shape != expected[name]:
            have, want = list(found[name].shape), list(expected[name])
            reason = f"{name} has shape {have}, {by} needs {want}."
            return Refusal("shape_mismatch", reason, {"tensor": name, "found": have, "expected": want})
    return None


def assess_adapter_values(values: AdapterValues) -> Refusal | None:
    """Refuse a LoRA that holds NaN or infinity, and one that changes nothing."""
    refusal = assess_finite(values.non_finite)
    if refusal:
        return refusal
    if len(values.idle_modules) == values.modules and not values.has_other_weights:
        reason = f"A or B is zero in all {values.modules} modules."
        return Refusal("adapter_is_zero", reason, {"modules": values.modules})
    return None


def assess_finite(non_finite: Sequence[str]) -> Refusal | None:
    """Refuse weights with NaN or infinity, naming the first tensor."""
    if not non_finite:
        return None
    reason = f"{non_finite[0]} holds NaN or infinity ({len(non_finite)} such tensors)."
    return Refusal("non_finite_weights", reason, {"tensors": list(non_finite[:5])})


def bare_name(name: str) -> str:
    """Return a model's name without its organisation, for comparison."""
    return name.rsplit("/", 1)[-1].lower()
