"""The LoRA on a base without weights: the tensors that PEFT expects, and PEFT's merge of single layers."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.loading_report import LoadStateDictInfo

from services.merger.adapters.tensors import Replacements
from services.merger.domain import AdapterValues, ExpectedTensors

ADAPTER = "default"
SAVED_BUFFERS = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias|causal_mask)$")
"""Attention masks that older transformers versions saved as tensors; the installed version knows only some of them."""
META = torch.device("meta")


def read_config(folder: Path) -> Any:
    """Read a model's configuration, from any version of transformers; code in the folder is not run."""
    return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def all_settings(config: Any) -> dict[str, Any]:
    """Return all settings, including unsaved settings that may name code on a hub."""
    parts = [config, *(part for name in config.sub_configs if (part := getattr(config, name, None)) is not None)]
    return {
        **config.to_dict(),
        "attn_implementation": [part._attn_implementation for part in parts],  # noqa: SLF001 - the only way to see it
        "experts_implementation": [part._experts_implementation for part in parts],  # noqa: SLF001 - likewise
    }


def empty_base(folder: Path, rows: int | None = None) -> Any:
    """Return a model without memory for weights; `rows` overrides the size of its embedding."""
    config = read_config(folder)
    if rows is not None:
        config.get_text_config().vocab_size = rows
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()


def tied_modules(model: Any) -> list[str]:
    """Return the modules that share one weight matrix, the embedding first; empty if the base ties none."""
    if not model.config.get_text_config().tie_word_embeddings:
        return []
    shared = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for tied in shared for name, module in model.named_modules() if module is tied]


def expected_tensors(model: Any) -> ExpectedTensors:
    """Return the tensors that a base's files may hold; aliases of tied tensors may be missing."""
    state = model.state_dict()
    return ExpectedTensors(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        frozenset(name for name, tensor in state.items() if tensor.is_floating_point()),
        frozenset(f"{name}.weight" for name in tied_modules(model)[1:]),
    )


def ignored_tensors(model: Any, unknown: Iterable[str]) -> set[str]:
    """Return the unknown tensors that transformers skips on loading without a warning.

    Examples are buffers that older versions saved (`rotary_emb.inv_freq`, attention masks), and heads that the
    architecture does not use (`mtp`).
    """
    names = set(unknown)
    loading = LoadStateDictInfo(set(), names, set(), [], {}, set())
    model._adjust_missing_and_unexpected_keys(loading)  # noqa: SLF001 - transformers has no public function for it
    return {name for name in names if name not in loading.unexpected_keys or SAVED_BUFFERS.search(name)}


@dataclass(frozen=True)
class ExpectedAdapter:
    """The tensors and changed modules of a LoRA, derived from its configuration and base."""

    shapes: dict[str, tuple[int, ...]]
    modules: list[str]


def expected_adapter(base: Path, adapter: Path, rows: int) -> ExpectedAdapter:
    """Return the tensors and modules that PEFT derives from a LoRA's configuration on this base.

    Raises:
        ValueError: PEFT cannot apply the configuration to this base.
    """
    config = PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = False
    with torch.device("meta"):  # otherwise PEFT allocates unchecked sizes from the configuration
        wrapped = get_peft_model(empty_base(base, rows), config, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(wrapped, adapter_name=ADAPTER, save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return ExpectedAdapter(shapes, [name for name, _ in adapted_modules(wrapped)])


def adapted_modules(wrapped: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules that an adapter changes, with their names in the base."""
    for name, module in wrapped.base_model.model.named_modules():
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            yield name, module


def read_adapter_values(adapter_weights: Path) -> AdapterValues:
    """Return the tensors of a LoRA with NaN or infinity, and the modules with a zero A or B."""
    non_finite: list[str] = []
    zero: dict[str, bool] = {}
    other = False
    with safe_open(str(adapter_weights), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if not bool(torch.isfinite(tensor.float()).all()):
                non_finite.append(name)
            module, marker, _ = name.partition(".lora_")
            if marker and ".lora_magnitude_vector" not in name:
                zero[module] = zero.get(module, False) or not bool(tensor.any())
            else:
                other = True
    zero_modules = tuple(module for module, is_zero in zero.items() if is_zero)
    return AdapterValues(tuple(non_finite), zero_modules, len(zero), other)


@contextmanager
def adapters_kept_in_place() -> Iterator[None]:
    """Keep PEFT from moving the LoRA to its base's meta device, which would discard the LoRA's values."""
    original = BaseTunerLayer._move_adapter_to_device_of_base_layer  # noqa: SLF001 - PEFT has no switch for this
    BaseTunerLayer._move_adapter_to_device_of_base_layer = lambda *_args, **_kwargs: None  # noqa: SLF001
    try:
        yield
    finally:
        BaseTunerLayer._move_adapter_to_device_of_base_layer = original  # noqa: SLF001


def load_unmerged(base: Path, adapter: Path, rows: int | None = None) -> Any:
    """Return a base without weights, wrapped in the LoRA with its weights, all in float32.

    The conversion covers base weights in the LoRA's file, which PEFT loads in the file's precision.
    """
    with adapters_kept_in_place():
        wrapped = PeftModel.from_pretrained(
            empty_base(base, rows), str(adapter), adapter_name=ADAPTER, low_cpu_mem_usage=True
        )
    return wrapped.float().eval()


class LayerwiseMerge:
    """Merges a LoRA into its base with PEFT's own code, one float32 tensor at a time.

    Args:
        wrapped: PEFT model with LoRA weights; its base is on the meta device.
        replacements: Tensors that replace those of the base.
    """

    def __init__(self, wrapped: Any, replacements: Replacements | None = None) -> None:
        self._replacements = replacements or Replacements(Path(), {})
        self._layers: dict[str, Any] = {}
        self._saved: dict[str, torch.Tensor] = {}
        for name, module in adapted_modules(wrapped):
            if isinstance(module, ModulesToSaveWrapper):
                saved = module.modules_to_save[ADAPTER].named_parameters()
                self._saved |= {f"{name}.{parameter}": tensor.detach() for parameter, tensor in saved}
            else:
                self._layers[f"{name}.weight"] = module
        self._pending = {*self._layers, *self._saved}

    def changes(self, name: str) -> bool:
        """Return whether the merge changes a tensor of the base."""
        return name in self._layers or name in self._saved or name in self._replacements

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the merged float32 tensor for a base tensor, or the same tensor if nothing changes it.

        NaN and infinity are checked later, when rounding: PEFT's own check takes longer than its merge.
        """
        self._pending.discard(name)
        if name in self._saved:
            return self._saved[name]
        replacement = self._replacements.get(name)
        weight = weight if replacement is None else replacement
        module = self._layers.get(name)
        if module is None:
            return weight
        with torch.no_grad():
            return self._merge(module, weight)

    def _merge(self, module: Any, weight: torch.Tensor) -> torch.Tensor:
        layer = module.get_base_layer()
        layer.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
        module.merge(safe_merge=False)
        merged: torch.Tensor = layer.weight.data
        module.merged_adapters.clear()
        layer.weight = torch.nn.Parameter(torch.empty(weight.shape, device=META), requires_grad=False)
        return merged

    def unmerged(self) -> list[str]:
        """Return adapted tensors not merged yet; any left at the end would lose their training."""
        return sorted(self._pending)
