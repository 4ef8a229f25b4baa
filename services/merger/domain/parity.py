"""Parity: the stored merged model must answer like base plus LoRA, unmerged."""

import math
from dataclasses import dataclass

from contracts.facts import Parity
from services.merger.domain.checks import Refusal

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
    """How far the merged model may stray; rounding to bfloat16 alone costs a mean KL of about 1e-4."""

    max_mean_kl: float = 0.005
    min_top1_agreement_ratio: float = 0.95


def assess_parity(parity: Parity, limits: ParityLimits) -> Refusal | None:
    """Refuse a merged model that does not answer like its parts; no evidence is a refusal, too."""
    numbers = parity.model_dump()
    if parity.prompts == 0:
        return Refusal("parity_failed", "no prompt was compared, so parity is not known", numbers)
    if not math.isfinite(parity.mean_kl) or parity.mean_kl > limits.max_mean_kl:
        reason = f"mean KL {parity.mean_kl:.6f} is above the limit of {limits.max_mean_kl}"
        return Refusal("parity_failed", reason, numbers)
    if parity.top1_agreement_ratio < limits.min_top1_agreement_ratio:
        reason = (
            f"the most likely token agrees at {parity.top1_agreement_ratio:.4f} of the positions, "
            f"below the limit of {limits.min_top1_agreement_ratio}"
        )
        return Refusal("parity_failed", reason, numbers)
    return None
