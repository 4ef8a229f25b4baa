"""Parity: the logits of the stored merged model must match those of base plus LoRA, unmerged."""

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
    """Limits of the difference between the merged model and base plus LoRA.

    Rounding the merged weights once to bfloat16 costs a small model a mean KL of about 0.005 and some 5 % of the
    most likely tokens, although every tensor is correct to the last bit; float16 costs a thousandth of that.
    """

    max_mean_kl: float = 0.05
    """Highest mean divergence of the merged model from base and LoRA, in nats per token."""
    min_top1_agreement_ratio: float = 0.85
    """Least share of positions at which both have the same likeliest token."""
    max_lost_ratio: float = 0.25
    """Most of the LoRA's own effect (as mean KL) that may be lost, where the loss is above `ignored_mean_kl`."""
    ignored_mean_kl: float = 0.01


def assess_parity(parity: Parity, limits: ParityLimits) -> Rejection | None:
    """Reject a merged model whose logits differ from those of base plus LoRA; no evidence is a rejection, too."""
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
