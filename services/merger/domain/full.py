"""Checks of full weights: architecture and tensors must match the base."""

from collections.abc import Mapping, Sequence
from typing import Any

from decisions.checkpoints.rejection import Rejection
from services.merger.domain.checks import MODEL_CONFIG, TensorInfo, first_shape_mismatch

GENERATION_CONFIG = "generation_config.json"
OWN_SETTINGS = frozenset({MODEL_CONFIG, GENERATION_CONFIG})
"""Files taken from full weights; a missing generation_config.json comes from the base."""

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Settings in which a full fine-tune may differ from its base, at any depth; the served ones are the fine-tune's.
FREE_CONFIG_KEYS = frozenset(
    {
        "_attn_implementation_autoset",  # only some versions write it
        "_name_or_path",
        "auto_map",  # removed before serving
        "dtype",
        "rope_theta",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",  # compared with embedding and tokenizer
        *TOKEN_IDS,
    }
)
NOTE_PREFIXES = ("unsloth_",)
"""Prefixes of config.json keys that trainers leave as notes.

Other unknown keys count as settings, because serving engines read more keys than transformers does.
"""


def assess_full_config(config: Mapping[str, Any], base_config: Mapping[str, Any]) -> Rejection | None:
    """Reject full weights with other architecture settings than the base; tensor shapes alone would not show this.

    Args:
        config: All settings as transformers reads them, so that versions do not matter.
        base_config: The base's settings, read the same way.
    """
    settings, base = architecture_settings(config), architecture_settings(base_config)
    different = sorted(key for key in settings.keys() | base.keys() if settings.get(key) != base.get(key))
    if different:
        reason = (
            f"config.json differs from the base's in {', '.join(different)}; set the base's values, and remove what is "
            "only a note of the trainer."
        )
        return Rejection("base_mismatch", reason, {"keys": different})
    return None


def architecture_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a full fine-tune must share with its base."""
    return {
        key: architecture_settings(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in FREE_CONFIG_KEYS and not str(key).startswith(NOTE_PREFIXES)  # keys of labels are numbers
    }


def changed_token_ids(config: Mapping[str, Any], base_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the special tokens in which a full fine-tune differs from its base."""
    return {key: config[key] for key in TOKEN_IDS if config.get(key) not in (None, base_config.get(key))}


def with_end(generation: Mapping[str, Any], end_id: int | None) -> dict[str, Any]:
    """Return the generation settings' end tokens with the LoRA's end token added."""
    ends = generation.get("eos_token_id")
    known = ends if isinstance(ends, list) else [ends]
    return {"eos_token_id": [each for each in dict.fromkeys((*known, end_id)) if each is not None]}


def assess_full_tensors(
    tensors: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> Rejection | None:
    """Reject full weights with missing, additional or differently shaped tensors."""
    missing, unexpected = sorted(base.keys() - tensors.keys()), sorted(tensors.keys() - base.keys())
    if missing or unexpected:
        reason = (
            f"{len(missing)} tensors of the base are missing in the full weights and {len(unexpected)} are not the "
            f"base's, for example {(missing or unexpected)[0]}."
        )
        return Rejection("base_mismatch", reason, {"missing": missing[:5], "unexpected": unexpected[:5]})
    return first_shape_mismatch(tensors, expected)


def assess_tied_copies(
    tensors: Mapping[str, TensorInfo], digests: Mapping[str, bytes], tied: Sequence[str]
) -> Rejection | None:
    """Reject full weights with different copies of a tied matrix, because engines may serve either.

    Args:
        tensors: Headers of the full weights.
        digests: Digest of each tensor's bytes.
        tied: Modules of the base that share one matrix, the embedding first.
    """
    first, *aliases = (f"{name}.weight" for name in tied) if tied else ("",)
    for alias in aliases:
        if alias in tensors and (tensors[alias], digests[alias]) != (tensors[first], digests[first]):
            reason = (
                f"The full weights hold {alias} and {first} with different values, but the base ties them; save one of "
                "them, or train from a base that does not tie them."
            )
            return Rejection("base_mismatch", reason, {"tensors": [first, alias]})
    return None
