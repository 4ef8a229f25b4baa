"""Compares the logits of base plus LoRA, unmerged, with those of the merged model that came back from the store."""

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
    """Compare a model that is not merged with the merged one.

    KL is KL(reference || merged), the mean over all positions, in nats.

    Args:
        reference: Builds base plus LoRA, unmerged, without the base's weights.
        load: Reads a weight of the base.
        merged: Builds the merged model, without weights.
        load_merged: Reads a weight of the merged model.
        prompts: Token ids.
        with_effect: Also compare with the base alone.
        progress: Told models done and in all.

    Raises:
        ArithmeticError: either side gives logits that are not finite, or read a tensor that changed.
    """

    def ask_reference(model: Any) -> tuple[list[torch.Tensor], float | None]:
        logits = layerwise.logits_of(model, prompts)
        progress(1, 3)
        if not with_effect:
            return logits, None
        with model.disable_adapter():
            return logits, compare(logits, layerwise.logits_of(model, prompts)).mean_kl

    expected, effect = layerwise.run(reference, load, ask_reference)
    progress(2, 3)
    found = layerwise.run(merged, load_merged, lambda model: layerwise.logits_of(model, prompts))
    progress(3, 3)
    return compare(expected, found).model_copy(update={"effect_kl": effect})


def compare(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> Parity:
    """Reduce two lists of logits (positions by vocabulary) to the figures of parity.

    Raises:
        ArithmeticError: either side holds NaN or infinity.
    """
    largest, kl, agreeing, positions = 0.0, 0.0, 0, 0
    for ours, theirs in zip(expected, found, strict=True):
        if not bool(torch.isfinite(ours).all()) or not bool(torch.isfinite(theirs).all()):
            msg = "the logits of one side hold NaN or infinity"
            raise ArithmeticError(msg)
        largest = max(largest, float((ours - theirs).abs().max()))
        log_p, log_q = torch.log_softmax(ours, dim=-1), torch.log_softmax(theirs, dim=-1)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        agreeing += int((ours.argmax(dim=-1) == theirs.argmax(dim=-1)).sum())
        positions += len(ours)
    return Parity(
        prompts=len(expected),
        max_abs_logit_difference=largest,
        mean_kl=max(0.0, kl / positions),  # rounding can leave -1e-9
        top1_agreement_ratio=agreeing / positions,
    )
