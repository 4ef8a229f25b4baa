"""INT8, FP8 and INT4 by llmcompressor, saved as compressed-tensors.

llmcompressor moves each layer to an accelerator while working on it, if there is one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM

from services.quantiser.domain import QuantisationPlan

Report = Callable[[str, int], None]
"""Called with step and finished layers."""
MAX_SHARD = "512MB"
AWQ_TRIALS = 20
"""Scales tried per layer, as in AutoAWQ; each trial runs all samples through the layer."""
RECIPE_FILE = "recipe.yaml"
NORM_BEFORE_MLP = dict.fromkeys(("Gemma2ForCausalLM", "Gemma3ForCausalLM"), "pre_feedforward_layernorm")
"""Norm before the MLP where llmcompressor assumes another: folding scales into the wrong norm changes the model."""


class _LayerCount:
    """Counts layers of a sequential pass; its first part is the embedding, its last a layer with the head."""

    def __init__(self, step: str, report: Report) -> None:
        self.step, self.report, self.parts = step, report, 0

    def part_ended(self) -> None:
        self.report(self.step, self.parts)
        self.parts += 1


def _reporting(modifier: type[Any], count: _LayerCount) -> type[Any]:
    """Return a modifier class that reports after each part of its sequential pass."""

    class Reporting(modifier):  # type: ignore[misc]  # llmcompressor is untyped
        def on_sequential_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_sequential_epoch_end(*args, **kwargs)
            count.part_ended()

    return Reporting


def compress(
    plan: QuantisationPlan, merged: Path, output: Path, windows: list[list[int]] | None, report: Report
) -> None:
    """Quantise a merged model; write weights and `config.json`, but no tokenizer.

    Args:
        plan: Method, scheme, group size, and modules to keep in 16 bit.
        merged: Folder of the merged model.
        output: Folder to write.
        windows: Calibration token IDs; None for round-to-nearest.
        report: Called after each layer.
    """
    if windows is None:
        report("quantise", 0)
        rounding = QuantizationModifier(config_groups=_groups(plan), ignore=list(plan.ignored_modules))
        compress_by([rounding], plan, merged, output, windows)
        report("quantise", plan.layers)
    else:
        compress_by(_calibrated(plan, report), plan, merged, output, windows)


def compress_by(
    recipe: list[Any], plan: QuantisationPlan, merged: Path, output: Path, windows: list[list[int]] | None
) -> None:
    """Quantise a merged model with these llmcompressor modifiers, in order."""
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_args, **_kwargs: None  # pinning needs an accelerator
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    if windows is None:
        oneshot(model=model, recipe=recipe)
    else:
        oneshot(model=model, recipe=recipe, dataset=_loader(windows))
    _cast_unquantised(model, plan)
    model.save_pretrained(output, save_compressed=True, max_shard_size=MAX_SHARD)
    (output / RECIPE_FILE).unlink(missing_ok=True)  # it names our classes; the manifest has the settings


def _calibrated(plan: QuantisationPlan, report: Report) -> list[Any]:
    fixed = {"config_groups": _groups(plan), "ignore": list(plan.ignored_modules)}
    gptq = _reporting(GPTQModifier, _LayerCount("quantise", report))
    if plan.method == "gptq":
        return [gptq(**fixed)]
    if plan.method == "awq":
        scale = _reporting(AWQModifier, _LayerCount("quantise", report))
        return [scale(duo_scaling=True, n_grid=AWQ_TRIALS), QuantizationModifier(**fixed)]
    smooth = _reporting(SmoothQuantModifier, _LayerCount("smooth", report))
    mappings = _mappings(NORM_BEFORE_MLP.get(plan.architecture))
    return [smooth(smoothing_strength=plan.smoothing_strength, mappings=mappings), gptq(**fixed)]


def _mappings(norm_before_mlp: str | None) -> list[Any] | None:
    """Return SmoothQuant's pairs of layers and norms; None for llmcompressor's default."""
    if norm_before_mlp is None:
        return None
    attention, mlp = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
    pairs = ((attention, "input_layernorm"), (mlp, norm_before_mlp))
    return [([f"re:.*{layer}" for layer in layers], f"re:.*{norm}") for layers, norm in pairs]


def _groups(plan: QuantisationPlan) -> dict[str, Any]:
    """Return a plan's quantisation scheme.

    GPTQ's scales minimise the squared error, which matters most for its quality. AWQ's scales cover the largest weight:
    its search enlarged the important weights, and least-squares scales would clip them.
    """
    scheme = preset_name_to_scheme(plan.scheme, ["Linear"])
    if plan.group_size is not None:
        observer = "memoryless_minmax" if plan.method == "awq" else "memoryless_mse"
        weights = {**scheme.weights.model_dump(), "group_size": plan.group_size, "observer": observer}
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    return {"group_0": scheme}


def _loader(windows: list[list[int]]) -> Any:
    samples = [
        {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        for ids in windows
    ]
    return torch.utils.data.DataLoader(samples, batch_size=None)


def _cast_unquantised(model: Any, plan: QuantisationPlan) -> None:
    """Cast unquantised tensors to the serving dtype; otherwise they are saved in the dtype of loading.

    INT8 and FP8 scales stay in fp32, because rounding would shift whole channels. INT4 scales are cast as the serving
    engine casts them, so that measurements match serving.
    """
    dtype = getattr(torch, plan.dtype)
    kept = ("weight", "weight_scale") if plan.group_size is None else ("weight",)
    for module in model.modules():
        quantised = getattr(module, "quantization_scheme", None) is not None
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dtype == torch.float32 and not (quantised and name in kept):
                parameter.data = parameter.data.to(dtype)
    model.config.dtype = plan.dtype
