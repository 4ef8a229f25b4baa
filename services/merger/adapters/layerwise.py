"""Runs a model with weights in the store: each module's weights are read for its call and then released."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

Load = Callable[[str], torch.Tensor]
META = torch.device("meta")
READ_BY_OWNER = (torch.nn.Conv1d,)
"""Modules without calls of their own: their parent uses their weights."""
WRAPPED = (".base_layer", ".original_module")


def base_name(name: str) -> str:
    """Return the base's name for a parameter of the LoRA-wrapped model."""
    for inserted in WRAPPED:
        name = name.replace(inserted, "")
    return name.removeprefix("base_model.model.")


def missing_parameters(name: str, module: torch.nn.Module) -> list[tuple[torch.nn.Module, str, str]]:
    """Return a module's parameters without data, as (owner, name in the owner, name in the base).

    A LoRA layer also reads the layer it wraps (DoRA takes the norm of its weight), and linear attention passes its
    convolutions' weights to a function, so those count too.
    """
    owners = [(name, module)]
    owners += [(f"{name}.{child}", part) for child, part in module.named_children() if isinstance(part, READ_BY_OWNER)]
    if isinstance(module, BaseTunerLayer):
        owners.append((f"{name}.base_layer", module.get_base_layer()))
    return [
        (owner, parameter, base_name(f"{path}.{parameter}"))
        for path, owner in owners
        for parameter, tensor in owner.named_parameters(recurse=False)
        if tensor.device == META
    ]


def read_on_demand(model: torch.nn.Module, load: Load) -> set[str]:
    """Make each module read its weights when called.

    Returns:
        The modules not called yet; the set shrinks with each call. Unread weights could give numbers from uninitialised
        memory without an error. Originals of modules that the LoRA replaces are not included.
    """
    unread: set[str] = set()
    for name, module in model.named_modules():
        by_owner = name.endswith(".base_layer") or isinstance(module, READ_BY_OWNER)
        needed = [] if by_owner else missing_parameters(name, module)
        if needed:
            if ".original_module" not in name:
                unread.add(name)
            _load_while_called(module, needed, load, partial(unread.discard, name))
    return unread


def _load_while_called(
    module: torch.nn.Module,
    needed: list[tuple[torch.nn.Module, str, str]],
    load: Load,
    note_call: Callable[[], None],
) -> None:
    empty = [(owner, parameter, getattr(owner, parameter)) for owner, parameter, _ in needed]

    def before(_module: torch.nn.Module, _inputs: Any) -> None:
        note_call()
        for owner, parameter, name in needed:
            setattr(owner, parameter, torch.nn.Parameter(load(name), requires_grad=False))

    def after(_module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        for owner, parameter, tensor in empty:
            setattr(owner, parameter, tensor)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


def read_all(model: torch.nn.Module, load: Load) -> None:
    """Read all weights at once, for models whose modules use each other's weights."""
    for name, module in model.named_modules():
        for owner, parameter, stored in missing_parameters(name, module):
            setattr(owner, parameter, torch.nn.Parameter(load(stored), requires_grad=False))


def compute_logits(model: Any, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return float32 logits [positions, vocabulary] per prompt, from one batch, so that weights are read once.

    Raises:
        NotImplementedError: A weight was missing when used.
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


def run_module_by_module(build: Callable[[], Any], load: Load, compute: Callable[[Any], Any]) -> Any:
    """Return the result of `compute` on a model with weights read on demand.

    `build` returns the model without weights. If reading on demand fails, all weights are loaded into memory.
    """
    model = build()
    unread = read_on_demand(model, load)
    try:
        computed = compute(model)
        if not unread:
            return computed
    except (NotImplementedError, RuntimeError):  # torch raises these for tensors without data
        pass
    del model
    model = build()
    read_all(model, load)
    return compute(model)
