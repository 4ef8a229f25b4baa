"""The settings that a training run recorded must match the LoRA's own configuration: rank and alpha scale a LoRA."""

from collections.abc import Mapping
from typing import Any

from services.merger.domain.checks import ADAPTER_CONFIG, Rejection

NAMES: dict[str, tuple[str, ...]] = {
    "r": ("r", "lora_r", "lora_rank"),
    "lora_alpha": ("lora_alpha",),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
}
"""The settings that decide how a LoRA is applied, with the names under which training runs record them."""


def recorded_settings(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a LoRA that a training run recorded, under PEFT's names.

    A plain `alpha` counts as the LoRA's only next to a recorded rank, and a plain `rank` only next to a plain `alpha`:
    other methods have an alpha, too, and processes have a rank.
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
    """Reject a LoRA without rank or alpha (PEFT would use its defaults), and one that differs from the training run."""
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
