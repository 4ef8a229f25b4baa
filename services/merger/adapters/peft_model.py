"""A base on the meta device with the real LoRA around it: what PEFT expects, and PEFT's own merge of one layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from services.merger.domain import AdapterValues

ADAPTER = "default"
META = torch.device("meta")


def empty_base(folder: Path) -> Any:
    """Build the base's modules without any memory for their weights."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def tied_modules(model: Any) -> list[str]:
    """Name the modules that share one matrix; empty where the base ties nothing."""
    if not model.config.get_text_config().tie_word_embeddings:
        return []
    shared = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for name, module in model.named_modules() if any(module is one for one in shared)]


def needed_weights(model: Any) -> set[str]:
    """Name the weights that the files of a base must hold; the second of two tied ones need not be there."""
    tied = {f"{name}.weight" for name in tied_modules(model)}
    first = {f"{name}.weight" for name, module in model.named_modules() if module is model.get_input_embeddings()}
    return set(model.state_dict()) - (tied - first)


def expected_adapter(base: Path, adapter: Path) -> tuple[dict[str, tuple[int, ...]], list[str], list[str]]:
    """Give what a LoRA's configuration yields on this base.

    Returns:
        The tensors (name to shape) that its file must hold, the modules it changes, the base's tied modules.

    Raises:
        ValueError: PEFT cannot apply the configuration to this base at all.
    """
    model = empty_base(base)
    tied = tied_modules(model)
    config = PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = False
    wrapped = get_peft_model(model, config, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(wrapped, adapter_name=ADAPTER, save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return shapes, [name for name, _ in adapted_modules(wrapped)], tied


def adapted_modules(wrapped: Any) -> Iterator[tuple[str, Any]]:
    """List the modules that an adapter changes, under their names in the base."""
    for name, module in wrapped.base_model.model.named_modules():
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            yield name, module


def read_values(adapter_weights: Path) -> AdapterValues:
    """Look at every value of a LoRA: NaN, infinity, and modules whose A or B is zero."""
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
    idle = tuple(module for module, is_zero in zero.items() if is_zero)
    return AdapterValues(tuple(non_finite), idle, len(zero), other)


@contextmanager
def adapters_stay_where_they_are() -> Iterator[None]:
    """Keep PEFT from moving the real LoRA to the meta device of its base, which would empty it."""
    original = BaseTunerLayer._move_adapter_to_device_of_base_layer  # noqa: SLF001 - PEFT has no switch for this
    BaseTunerLayer._move_adapter_to_device_of_base_layer = lambda *_args, **_kwargs: None  # noqa: SLF001
    try:
        yield
    finally:
        BaseTunerLayer._move_adapter_to_device_of_base_layer = original  # noqa: SLF001


class LayerwiseMerge:
    """Merges one tensor at a time, by PEFT's own code, in float32."""

    def __init__(self, base: Path, adapter: Path) -> None:
        with adapters_stay_where_they_are():
            wrapped = PeftModel.from_pretrained(
                empty_base(base), str(adapter), adapter_name=ADAPTER, low_cpu_mem_usage=True
            )
        wrapped.eval()
        self._modules = dict(adapted_modules(wrapped))
        self._waiting = set(self._modules)

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Give the merged float32 tensor for a tensor of the base, or the tensor itself where nothing changes it.

        Raises:
            ValueError: the sum holds NaN or infinity.
        """
        with torch.no_grad():
            return self._merge(name, weight)

    def _merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        module_name, _, parameter = name.rpartition(".")
        module = self._modules.get(module_name)
        if module is None:
            return weight
        if isinstance(module, ModulesToSaveWrapper):
            self._waiting.discard(module_name)
            saved: torch.Tensor = module.modules_to_save[ADAPTER].get_parameter(parameter).float()
            return saved
        if parameter != "weight":
            return weight
        layer = module.get_base_layer()
        layer.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
        module.merge(safe_merge=True)
        merged: torch.Tensor = layer.weight.data
        module.merged_adapters.clear()
        layer.weight = torch.nn.Parameter(torch.empty(weight.shape, device=META), requires_grad=False)
        self._waiting.discard(module_name)
        return merged

    def left_over(self) -> list[str]:
        """Name the adapted modules whose tensor never came by: their training would be lost."""
        return sorted(self._waiting)
