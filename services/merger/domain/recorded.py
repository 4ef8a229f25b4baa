"""What a training run recorded of its LoRA must be what the LoRA's own configuration says: alpha and rank scale it."""

from collections.abc import Mapping
from typing import Any

from services.merger.domain.checks import ADAPTER_CONFIG, Refusal

NAMES: dict[str, tuple[str, ...]] = {
    "r": ("r", "lora_r", "lora_rank"),
    "lora_alpha": ("lora_alpha",),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
}
"""The settings that decide what a LoRA's tensors mean, and the names that training runs record them under."""


def recorded_settings(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training run recorded of a LoRA's settings, under PEFT's names.

    A plain `alpha` is taken for the LoRA's only beside a recorded rank, and a plain `rank` only beside a plain `alpha`:
    other methods have an alpha, too, and processes a rank.
    """
    found = {
        setting: hyperparameters[name] for setting, names in NAMES.items() for name in names if name in hyperparameters
    }
    if "r" not in found and "rank" in hyperparameters and "alpha" in hyperparameters:
        found["r"] = hyperparameters["rank"]
    if "r" in found and "lora_alpha" not in found and "alpha" in hyperparameters:
        found["lora_alpha"] = hyperparameters["alpha"]
    return found


def assess_recorded(adapter: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> Refusal | None:
    """Refuse a LoRA without rank or alpha, for which PEFT would take its defaults, and one that was changed since."""
    for name in ("r", "lora_alpha"):
        value = adapter.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            reason = f"{ADAPTER_CONFIG} says {name} = {value!r}."
            return Refusal("hyperparameters_mismatch", reason, {"setting": name, "adapter": value})
    for name, recorded in sorted(recorded_settings(hyperparameters).items()):
        value = adapter.get(name, False)
        if recorded != value:
            reason = f"{ADAPTER_CONFIG} says {name} = {value!r}, the training run recorded {recorded!r}."
            details = {"setting": name, "adapter": value, "recorded": recorded}
            return Refusal("hyperparameters_mismatch", reason, details)
    return None
