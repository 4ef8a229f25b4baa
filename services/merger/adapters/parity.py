"""Compares the logits of base plus LoRA, unmerged, with those of the stored merged model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from contracts.facts import Parity
from services.merger.adapters import layerwise

Progress = Callable[[int, int], None]


def measure_parity(
    reference: Callable[[], Any],
    load: layerwise.Load,
    merged: Callable[[], Any],
    load_merged: layerwise.Load,
    *,
    prompts: Sequence[torch.Tensor],
    with_effect: bool,
    progress: Progress,
) -> Parity:
    """Return the parity of a model that is not merged and the merged one.

    KL is KL(reference || merged), the mean over all positions, in nats.

    Args:
        reference: Builds base plus LoRA, unmerged, without the base's weights.
        load: Reads a weight of the base.
        merged: Builds the merged model, without weights.
        load_merged: Reads a weight of the merged model.
        prompts: Token ids.
        with_effect: Also compare with the base alone.
        progress: Called with models done and in total.

    Raises:
        ArithmeticError: A model's logits are not finite, or a tensor that it read has changed.
    """

    def compute_reference(model: Any) -> tuple[list[torch.Tensor], float | None]:
        logits = layerwise.compute_logits(model, prompts)
        progress(1, 3)
        if not with_effect:
            return logits, None
        with model.disable_adapter():
            return logits, compare(logits, layerwise.compute_logits(model, prompts)).mean_kl

    expected, effect = layerwise.run_module_by_module(reference, load, compute_reference)
    progress(2, 3)
    actual = layerwise.run_module_by_module(merged, load_merged, lambda model: layerwise.compute_logits(model, prompts))
    progress(3, 3)
    return compare(expected, actual).model_copy(update={"effect_kl": effect})


def compare(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> Parity:
    """Return the parity of two lists of logits (positions by vocabulary).

    Raises:
        ArithmeticError: One of them holds NaN or infinity.
    """
    largest, kl, agreeing, positions = 0.0, 0.0, 0, 0
    for reference, merged in zip(expected, actual, strict=True):
        if not bool(torch.isfinite(reference).all()) or not bool(torch.isfinite(merged).all()):
            msg = "the logits of one side hold NaN or infinity"
            raise ArithmeticError(msg)
        largest = max(largest, float((reference - merged).abs().max()))
        log_p, log_q = torch.log_softmax(reference, dim=-1), torch.log_softmax(merged, dim=-1)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        agreeing += int((reference.argmax(dim=-1) == merged.argmax(dim=-1)).sum())
        positions += len(reference)
    return Parity(
        prompts=len(expected),
        max_abs_logit_difference=largest,
        mean_kl=max(0.0, kl / positions),  # rounding can leave -1e-9
        top1_agreement_ratio=agreeing / positions,
    )
