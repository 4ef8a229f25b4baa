"""Runs a model whose weights lie in the store: each module's are read when it is called, and let go after."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

Load = Callable[[str], torch.Tensor]
META = torch.device("meta")
WRAPPED = (".base_layer", ".original_module")


def base_name(name: str) -> str:
    """Return the name in the base of a parameter in a model with a LoRA around it."""
    for inserted in WRAPPED:
        name = name.replace(inserted, "")
    return name.removeprefix("base_model.model.")


def empty_parameters(name: str, module: torch.nn.Module) -> list[tuple[torch.nn.Module, str, str]]:
    """List what a module needs when it is called and does not have: owner, name there, name in the base.

    A LoRA's layer looks into the layer that it wraps (DoRA takes the norm of its weight), so it needs that one's, too.
    """
    owners = [(name, module)]
    if isinstance(module, BaseTunerLayer):
        owners.append((f"{name}.base_layer", module.get_base_layer()))
    return [
        (owner, parameter, base_name(f"{path}.{parameter}"))
        for path, owner in owners
        for parameter, tensor in owner.named_parameters(recurse=False)
        if tensor.device == META
    ]


def read_on_demand(model: torch.nn.Module, load: Load) -> None:
    """Let every module read its own weights when it is called."""
    for name, module in model.named_modules():
        needed = [] if name.endswith(".base_layer") else empty_parameters(name, module)
        if needed:
            _lend(module, needed, load)


def _lend(module: torch.nn.Module, needed: list[tuple[torch.nn.Module, str, str]], load: Load) -> None:
    empty = [(owner, parameter, getattr(owner, parameter)) for owner, parameter, _ in needed]

    def before(_module: torch.nn.Module, _inputs: Any) -> None:
        for owner, parameter, name in needed:
            setattr(owner, parameter, torch.nn.Parameter(load(name), requires_grad=False))

    def after(_module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        for owner, parameter, tensor in empty:
            setattr(owner, parameter, tensor)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


def read_all(model: torch.nn.Module, load: Load) -> None:
    """Read all weights at once: for a model whose modules use each other's weights."""
    for name, module in model.named_modules():
        for owner, parameter, stored in empty_parameters(name, module):
            setattr(owner, parameter, torch.nn.Parameter(load(stored), requires_grad=False))


def logits_of(model: Any, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the float32 logits at every position of every prompt, all in one batch, so that weights are read once.

    Raises:
        NotImplementedError: some weight was not there when it was used.
    """
    ids = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        mask[row, : len(prompt)] = 1
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    if logits.device == META:
        raise NotImplementedError("the logits are empty")
    return [logits[row, : len(prompt)].float() for row, prompt in enumerate(prompts)]


def run(build: Callable[[], Any], load: Load, ask: Callable[[Any], Any]) -> Any:
    """Ask a model that `build` gives empty; where reading on demand cannot work, with all its weights in memory."""
    model = build()
    read_on_demand(model, load)
    try:
        return ask(model)
    except (NotImplementedError, RuntimeError):  # torch's words for a tensor without data
        del model
    model = build()
    read_all(model, load)
    return ask(model)
