"""Parity: the stored merged model's logits must match those of base plus LoRA, unmerged."""

import math
from dataclasses import dataclass

from contracts.facts import Parity
from decisions.checkpoints.rejection import Rejection

PARITY_PROMPTS = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences why the sky is blue.",
    "Translate to German: The ship leaves the harbour at dawn.",
    "List three prime numbers greater than 100.",
    "Summarise: A slipway is a ramp on the shore by which ships are moved to and from the water.",
    "What does the with statement do in Python?",
    "My order has not arrived. What should I do?",
)
PROBE_CONVERSATION = (
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "Is 7 a prime number?\nAnswer yes or no."},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And 12,345? \u00e4\u00f6\u00fc \u4f60\u597d \U0001f6a2"},
)


@dataclass(frozen=True)
class ParityLimits:
    """Limits of the difference between merged model and base plus LoRA.

    Rounding to bfloat16 costs a small model about 0.005 mean KL and 5 % of the most likely tokens, even if all tensors
    are correct to the last bit; float16 costs a thousandth of that.
    """

    max_mean_kl: float = 0.05
    """Highest mean KL from base plus LoRA to the merged model, in nats per token."""
    min_top1_agreement_ratio: float = 0.85
    """Lowest share of positions with the same most likely token."""
    max_lost_ratio: float = 0.25
    """Largest part of the LoRA's effect (mean KL) that may be lost; checked above `ignored_mean_kl`."""
    ignored_mean_kl: float = 0.01


def assess_parity(parity: Parity, limits: ParityLimits) -> Rejection | None:
    """Reject a merged model whose logits differ from base plus LoRA, or were not compared."""
    numbers = parity.model_dump()
    if parity.prompts == 0:
        return Rejection("parity_failed", "Parity was not measured: no prompt was compared.", numbers)
    if not math.isfinite(parity.mean_kl) or parity.mean_kl > limits.max_mean_kl:
        reason = f"The mean KL of {parity.mean_kl:.6f} is above the limit of {limits.max_mean_kl}."
        return Rejection("parity_failed", reason, numbers)
    if parity.top1_agreement_ratio < limits.min_top1_agreement_ratio:
        reason = (
            f"The most likely token agrees at {parity.top1_agreement_ratio:.4f} of the positions, "
            f"below the limit of {limits.min_top1_agreement_ratio}."
        )
        return Rejection("parity_failed", reason, numbers)
    return assess_loss(parity, limits)


def assess_loss(parity: Parity, limits: ParityLimits) -> Rejection | None:
    """Reject a merge that lost much of the LoRA's effect, even if the loss is small in absolute terms."""
    if parity.effect_kl is None or parity.mean_kl <= limits.ignored_mean_kl:
        return None
    if parity.mean_kl <= limits.max_lost_ratio * parity.effect_kl:
        return None
    reason = (
        f"The mean KL between merged model and base plus LoRA is {parity.mean_kl:.6f}, more than "
        f"{limits.max_lost_ratio:g} times the LoRA's own effect of {parity.effect_kl:.6f}."
    )
    return Rejection("parity_failed", reason, parity.model_dump())
