"""The checks that need torch: what PEFT expects of a LoRA on this base, and the values of the weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from services.merger import domain
from services.merger.adapters import parity, peft_model
from services.merger.ports import MergeOrder
from shared.errors import Permanent

Refuse = Callable[[domain.Refusal | None], None]
Tell = Callable[[int, int], None]


def check_lora(
    order: MergeOrder, base: domain.FolderFacts, checkpoint: domain.FolderFacts, refuse: Refuse, tell: Tell
) -> None:
    """Hold a LoRA against its base, tensor by tensor."""
    refuse(domain.assess_base_tensors(base.tensors, needed(order.base)))
    try:
        expected, adapted, tied = peft_model.expected_adapter(order.base, order.checkpoint)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"PEFT cannot apply this configuration to the base: {first_line(error)}."
        raise Permanent("adapter_keys_mismatch", reason) from error
    refuse(domain.assess_tied(adapted, tied))
    copies = {name: domain.base_tensor_name(name) for name in checkpoint.tensors.keys() - expected.keys()}
    copies = {name: original for name, original in copies.items() if original in base.tensors}
    refuse(domain.assess_base_copies(differing_copies(order, base, checkpoint, copies)))
    own = {name: info for name, info in checkpoint.tensors.items() if name not in copies}
    refuse(domain.assess_adapter_tensors(own, expected))
    refuse(domain.assess_adapter_values(peft_model.read_values(order.checkpoint / domain.ADAPTER_WEIGHTS)))
    check_tokenizer(order, refuse)
    tell(len(expected), len(expected))


def differing_copies(
    order: MergeOrder, base: domain.FolderFacts, checkpoint: domain.FolderFacts, copies: Mapping[str, str]
) -> list[str]:
    """Name the tensors of the base that the LoRA's file brings along, changed (PEFT does so with embeddings)."""
    found = []
    where = {name: file.path for file in base.weights for name in file.tensors}
    mine = {name: file.path for file in checkpoint.weights for name in file.tensors}
    for name, original in sorted(copies.items()):
        with safe_open(str(order.checkpoint / mine[name]), framework="pt") as file:
            brought = file.get_tensor(name).float()
        with safe_open(str(order.base / where[original]), framework="pt") as file:
            if not torch.equal(brought, file.get_tensor(original).float()):
                found.append(original)
    return found


def check_full(
    order: MergeOrder, base: domain.FolderFacts, checkpoint: domain.FolderFacts, refuse: Refuse, tell: Tell
) -> None:
    """Look at every value of full weights."""
    refuse(domain.assess_base_tensors(base.tensors, needed(order.base)))
    names = checkpoint.tensors
    non_finite: list[str] = []
    done = 0
    for file in checkpoint.weights:
        with safe_open(str(order.checkpoint / file.path), framework="pt") as opened:
            for name in file.tensors:
                if not bool(torch.isfinite(opened.get_tensor(name)).all()):
                    non_finite.append(name)
                done += 1
                tell(done, len(names))
    refuse(domain.assess_finite(non_finite))
    check_tokenizer(order, refuse)


def needed(folder: Path) -> set[str]:
    """Name the weights that the base's architecture needs.

    Raises:
        Permanent: `unsupported_architecture`.
    """
    try:
        return peft_model.needed_weights(peft_model.empty_base(folder))
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise Permanent("unsupported_architecture", f"The base cannot be built: {first_line(error)}.") from error


def check_tokenizer(order: MergeOrder, refuse: Refuse) -> None:
    """Refuse a checkpoint that brings another tokenizer than its base's."""
    try:
        differences = parity.tokenizer_differences(order.base, order.checkpoint)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Permanent("tokenizer_changed", f"The tokenizer cannot be loaded: {first_line(error)}.") from error
    refuse(domain.assess_tokenizer(differences))


def first_line(error: Exception) -> str:
    """Shorten a library's message to what fits into one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
