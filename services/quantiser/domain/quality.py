"""Compares a variant's quality with its policy's gate."""

from typing import Literal

from contracts.facts import Quality
from contracts.policy import QualityGate
from contracts.vocabulary import Contract, Verdict

MIN_TOKENS = 1024
"""Minimum of held-out tokens for a verdict on a perplexity ratio of a few percent."""

GateCode = Literal["quality_gate_failed", "inconclusive"]


class Assessment(Contract):
    """A verdict and its reason."""

    verdict: Verdict
    reason: str


def windows_needed(length: int) -> int:
    """Return the number of windows for a verdict; each predicts `length` - 1 tokens."""
    return -(-MIN_TOKENS // max(length - 1, 1))


def assess_quality(
    quality: Quality,
    gate: QualityGate | None,
    *,
    own: Quality | None = None,
    identical: bool = False,
) -> Assessment:
    """Return the verdict of a quality gate.

    Args:
        quality: Quality against the merged model on held-out text.
        gate: The limits; None, or a gate without limits, always passes.
        own: Quality on the checkpoint's evaluation set; ignored below `MIN_TOKENS` tokens.
        identical: Whether the files are the merged model's, so that no measurement is needed.
    """
    if identical:
        return Assessment(verdict="pass", reason="The files are the merged model's own.")
    limits = [] if gate is None else _limits(quality, gate)
    if not limits:
        return Assessment(verdict="pass", reason="The policy sets no quality gate for this variant.")
    note = ""
    if own is not None and gate is not None and own.tokens >= MIN_TOKENS:
        limits += [(value, limit, f"{text} of its own set") for value, limit, text in _limits(own, gate)]
    elif own is not None:
        note = f" Its own set of {own.tokens} tokens is too small for a verdict, which needs {MIN_TOKENS}."
    exceeded = [text for value, limit, text in limits if value > limit]
    if quality.tokens < MIN_TOKENS:
        reason = f"{quality.tokens} held-out tokens were compared; a verdict needs {MIN_TOKENS}."
        return Assessment(verdict="inconclusive", reason=reason)
    if exceeded:
        return Assessment(verdict="fail", reason=f"Too much quality was lost: {'; '.join(exceeded)}.")
    return Assessment(verdict="pass", reason=f"Within the gate: {'; '.join(text for _, _, text in limits)}.{note}")


def _limits(quality: Quality, gate: QualityGate) -> list[tuple[float, float, str]]:
    pairs = (
        ("perplexity ratio", quality.perplexity_ratio, gate.max_perplexity_ratio),
        ("mean KL", quality.mean_kl, gate.max_mean_kl),
    )
    return [
        (value, limit, f"{name} {value:.4f} with a limit of {limit:.4f} on {quality.tokens} tokens")
        for name, value, limit in pairs
        if limit is not None
    ]
