"""Checks of a LoRA's configuration that PEFT does not make: base, kind, training settings."""

import re
from collections.abc import Mapping
from typing import Any

from contracts.facts import BaseModelRef
from decisions.checkpoints.rejection import Rejection

ADAPTER_CONFIG = "adapter_config.json"
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
# Initialisations that change the base's weights, so that the LoRA alone does not describe the model.
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
QUANTISED_NAME = re.compile(r"(-unsloth)?-bnb-[48]bit$", re.IGNORECASE)
"""Suffix of Unsloth's bitsandbytes copies of base models: `unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit`."""
QUANTISED_LOADING = ("load_in_4bit", "load_in_8bit")
NAMES: dict[str, tuple[str, ...]] = {
    "r": ("r", "lora_r", "lora_rank"),
    "lora_alpha": ("lora_alpha",),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
}
"""Settings that determine a LoRA's effect, with their names in records of training runs."""


def recorded_settings(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training run's recorded LoRA settings under PEFT's names.

    `alpha` counts only next to a recorded rank, and `rank` only next to `alpha`: other methods have an alpha, and
    processes a rank.
    """
    settings = {
        setting: hyperparameters[name] for setting, names in NAMES.items() for name in names if name in hyperparameters
    }
    if "r" not in settings and "rank" in hyperparameters and "alpha" in hyperparameters:
        settings["r"] = hyperparameters["rank"]
    if "r" in settings and "lora_alpha" not in settings and "alpha" in hyperparameters:
        settings["lora_alpha"] = hyperparameters["alpha"]
    return settings


def assess_recorded(adapter: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> Rejection | None:
    """Reject a LoRA without rank or alpha (PEFT would use defaults), or with other settings than recorded."""
    for name in ("r", "lora_alpha"):
        value = adapter.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            reason = f"{ADAPTER_CONFIG} says {name} = {value!r}; it must be a number above 0."
            return Rejection("hyperparameters_mismatch", reason, {"setting": name, "adapter": value})
    for name, recorded in sorted(recorded_settings(hyperparameters).items()):
        value = adapter.get(name, False)
        if recorded != value:
            reason = f"{ADAPTER_CONFIG} says {name} = {value!r}, the training run recorded {recorded!r}."
            details = {"setting": name, "adapter": value, "recorded": recorded}
            return Rejection("hyperparameters_mismatch", reason, details)
    return None


def assess_adapter_config(adapter: Mapping[str, Any], base: BaseModelRef) -> Rejection | None:
    """Reject adapters other than LoRA, with settings that cannot be merged, or of another base."""
    if adapter.get("peft_type") != "LORA":
        kind = adapter.get("peft_type")
        return Rejection("unsupported_adapter", f"The adapter's peft_type is {kind!r}; only LORA can be merged.")
    used = [key for key in UNSUPPORTED_SETTINGS if adapter.get(key)]
    if adapter.get("bias", "none") != "none":
        used.append("bias")
    if used:
        return Rejection(
            "unsupported_adapter", f"The adapter uses {', '.join(used)}, which cannot be merged.", {"settings": used}
        )
    start = str(adapter.get("init_lora_weights", "")).lower()
    if start.startswith(BASE_CHANGING_INITIALISATIONS):
        reason = (
            f"The adapter's initialisation {start} changed the base's weights; convert it to a plain LoRA on saving."
        )
        return Rejection("base_mismatch", reason, {"init_lora_weights": start})
    named = str(adapter.get("base_model_name_or_path") or "")
    if HUB_NAME.match(named) and bare_name(named) != bare_name(base.name):
        reason = f"{ADAPTER_CONFIG} names the base {named}, the event {base.name}: correct the one that is wrong."
        return Rejection("base_mismatch", reason, {"adapter": named, "event": base.name})
    return None


def assess_served_adapter(adapter: Mapping[str, Any], has_own_tokenizer: bool) -> Rejection | None:
    """Reject a LoRA that engines cannot serve as an adapter: with other weights than A and B, or another tokenizer.

    Args:
        adapter: The LoRA's configuration.
        has_own_tokenizer: Whether tokens, chat template or stop tokens differ from the base's.
    """
    parts = [name for name in ("modules_to_save", "use_dora") if adapter.get(name)]
    if has_own_tokenizer:
        parts.append("a tokenizer or chat template of its own")
    if not parts:
        return None
    reason = f"The LoRA has {', '.join(parts)}, which no engine serves as an adapter: publish it with serve: merged."
    return Rejection("unsupported_adapter", reason, {"parts": parts})


def quantised_base(adapter: Mapping[str, Any] | None, hyperparameters: Mapping[str, Any]) -> str | None:
    """Return the name of a LoRA's quantised base, or the recorded setting of quantised loading; None without either.

    Args:
        adapter: The LoRA's configuration; None if unknown.
        hyperparameters: The hyperparameters that the training run recorded.
    """
    named = str((adapter or {}).get("base_model_name_or_path") or "")
    if QUANTISED_NAME.search(named):
        return named[-200:]
    return next((name for name in QUANTISED_LOADING if hyperparameters.get(name) is True), None)


def describe_quantised(base: str) -> str:
    """Return a remark about a LoRA that was trained on a quantised base."""
    return (
        f"trained on a quantised base ({base}) and merged into the 16-bit one; parity compares with that one, so it "
        "does not include the error of the quantised base"
    )


def bare_name(name: str) -> str:
    """Return a model's name for comparison: lower case, without organisation, quantisation suffix and `meta-`.

    Unsloth's copies kept the prefix `Meta-` that Meta's repositories dropped.
    """
    return QUANTISED_NAME.sub("", name.rsplit("/", 1)[-1]).lower().removeprefix("meta-")
