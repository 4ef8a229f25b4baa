"""What is refused of full weights: another architecture than the base's, other tensors."""

from collections.abc import Mapping
from typing import Any

from services.merger.domain.checks import MODEL_CONFIG, Refusal, TensorInfo, first_shape_mismatch

GENERATION_CONFIG = "generation_config.json"
OWN_SETTINGS = frozenset({MODEL_CONFIG, GENERATION_CONFIG})
"""Files that full weights bring themselves; of the second, the base's is taken where they bring none."""

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# A full fine-tune may differ from its base in these, at any depth: what is served has the fine-tune's own.
FREE_CONFIG_KEYS = frozenset(
    {
        "_attn_implementation_autoset",  # a note that some versions wrote down
        "_name_or_path",
        "auto_map",  # never served
        "dtype",
        "rope_theta",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",  # held against the embedding's rows and the tokenizer
        *TOKEN_IDS,
    }
)


def assess_full_config(config: Mapping[str, Any], base_config: Mapping[str, Any]) -> Refusal | None:
    """Refuse full weights whose architecture settings are not the base's: their shapes would not tell.

    Args:
        config: As the library reads it, so that it makes no difference which version of it wrote the file.
        base_config: The base's, read in the same way.
    """
    mine, theirs = bound(config), bound(base_config)
    different = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    if different:
        reason = f"config.json differs from the base's in {', '.join(different)}."
        return Refusal("base_mismatch", reason, {"keys": different})
    return None


def bound(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a full fine-tune shares with its base."""
    return {
        key: bound(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in FREE_CONFIG_KEYS
    }


def changed_token_ids(config: Mapping[str, Any], base_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the special tokens that a full fine-tune's configuration names, and its base's does not."""
    return {key: config[key] for key in TOKEN_IDS if config.get(key) not in (None, base_config.get(key))}


def assess_full_tensors(
    found: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> Refusal | None:
    """Hold full weights against the base: the same tensors, in the shapes that its vocabulary leads to expect."""
    missing, unexpected = sorted(base.keys() - found.keys()), sorted(found.keys() - base.keys())
    if missing or unexpected:
        reason = f"{len(missing)} tensors of the base are missing, {len(unexpected)} are not the base's."
        return Refusal("base_mismatch", reason, {"missing": missing[:5], "unexpected": unexpected[:5]})
    return first_shape_mismatch(found, expected)
