"""The weights of a trained model, gathered from all processes if each holds a part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

Weights = dict[str, torch.Tensor]


def unwrapped(model: Any) -> Any:
    """Return the model with `save_pretrained`, without wrappers of the training."""
    while not hasattr(model, "save_pretrained"):
        inner = getattr(model, "_orig_mod", None)  # of torch.compile
        inner = inner if inner is not None else getattr(model, "module", None)  # of DDP, FSDP and DeepSpeed
        if inner is None:
            break
        model = inner
    return getattr(model, "_orig_mod", model)


def gather(model: Any) -> Weights | None:
    """Return all weights of a model in the first process; None if every process has all weights.

    All processes must call it, because each holds a part (FSDP of both versions, tensor parallelism, ZeRO-3). Other
    processes get incomplete weights.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):  # distributed by DeepSpeed
        return _gather_zero3(unwrapped(model))
    if _is_fsdp1(model) or any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        return _gather_shards(model)
    return None


def _is_fsdp1(model: Any) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel

    return any(isinstance(module, FullyShardedDataParallel) for module in model.modules())


def _gather_shards(model: Any) -> Weights:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    named = list(model.named_parameters(remove_duplicate=False))
    on_accelerator = any(parameter.device.type != "cpu" for _, parameter in named)
    options = StateDictOptions(full_state_dict=True, cpu_offload=on_accelerator)
    gathered = {_plain(name): value for name, value in get_model_state_dict(model, options=options).items()}
    first: dict[int, str] = {}
    for name, parameter in named:  # gathering copies tied weights
        original = first.setdefault(id(parameter), _plain(name))
        if original in gathered and _plain(name) in gathered:
            gathered[_plain(name)] = gathered[original]
    return gathered


def _gather_zero3(model: Any) -> Weights:
    """Gather parameters one after the other, to bound accelerator memory; of PEFT models only the saved parameters."""
    import deepspeed  # type: ignore[import-not-found]  # only where it is trained with

    first = torch.distributed.get_rank() == 0
    gathered: dict[int, torch.Tensor] = {}
    weights: Weights = {}
    for name, value in _saved_values(model):
        if id(value) not in gathered:  # tied weights stay tied
            with deepspeed.zero.GatheredParameters([value] if hasattr(value, "ds_id") else []):
                gathered[id(value)] = value.detach().cpu().clone() if first else torch.empty(0)
        weights[name] = gathered[id(value)]
    return weights if first else {}


def _saved_values(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    values = model.state_dict(keep_vars=True).items()
    if not hasattr(model, "peft_config"):
        yield from values
        return
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(value) for layer in embeddings if layer is not None for value in layer.parameters()}
    for name, value in values:
        if value.requires_grad or "lora_" in name or id(value) in kept:
            yield name, value


def _plain(name: str) -> str:
    for layer in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        name = name.replace(layer, "")
    return name
