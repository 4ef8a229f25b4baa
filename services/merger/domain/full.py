"""What is refused of full weights: another architecture than the base's, other tensors."""

from collections.abc import Mapping
from typing import Any

from services.merger.domain.checks import Refusal, TensorInfo, first_shape_mismatch

# Not a matter of the weights: these may differ between a base and its full fine-tune.
FREE_CONFIG_KEYS = frozenset(
    {
        "_name_or_path",
        "auto_map",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "rope_theta",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",  # held against the embedding's rows and the tokenizer
    }
)


def assess_full_config(config: Mapping[str, Any], base_config: Mapping[str, Any]) -> Refusal | None:
    """Refuse full weights whose architecture settings are not the base's: their shapes would not tell."""
    keys = (config.keys() | base_config.keys()) - FREE_CONFIG_KEYS
    different = sorted(key for key in keys if config.get(key) != base_config.get(key))
    if different:
        reason = f"config.json differs from the base's in {', '.join(different)}."
        return Refusal("base_mismatch", reason, {"keys": different})
    return None


def assess_full_tensors(
    found: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> Refusal | None:
    """Hold full weights against the base: the same tensors, in the shapes that its vocabulary leads to expect."""
    missing, unexpected = sorted(base.keys() - found.keys()), sorted(found.keys() - base.keys())
    if missing or unexpected:
        reason = f"{len(missing)} tensors of the base are missing, {len(unexpected)} are not the base's."
        return Refusal("base_mismatch", reason, {"missing": missing[:5], "unexpected": unexpected[:5]})
    return first_shape_mismatch(found, expected)
