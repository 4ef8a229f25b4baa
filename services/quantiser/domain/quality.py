"""Is a variant good enough for its policy: a verdict with the numbers compared."""

from typing import Literal

from contracts.facts import PrecisionCheck, Quality
from contracts.policy import QualityGate
from contracts.vocabulary import Contract, Verdict

MIN_TOKENS = 1024
"""Fewer held-out tokens than this prove nothing about a perplexity ratio of a few percent."""
IDENTICAL = Quality(perplexity_ratio=1.0, mean_kl=0.0, p99_kl=0.0, top1_agreement_ratio=1.0, tokens=0)
"""Quality of a variant that is the merged files themselves: proven by their digests, not measured."""

GateCode = Literal["quality_gate_failed", "inconclusive"]


class Assessment(Contract):
    """A verdict and the sentence that explains it."""

    verdict: Verdict
    reason: str


def windows_to_judge(length: int) -> int:
    """Return how many windows of so many tokens, of which each predicts all but the first, allow a verdict."""
    return -(-MIN_TOKENS // max(length - 1, 1))


def assess_quality(
    quality: Quality,
    gate: QualityGate | None,
    *,
    own: Quality | None = None,
    identical: bool = False,
    check: PrecisionCheck | None = None,
) -> Assessment:
    """Compare measured quality with the policy's gate.

    Args:
        quality: Measured against the merged model on held-out text.
        gate: The limits; None, or one without limits, asks for nothing.
        own: Measured on the checkpoint's own evaluation set; judged from `MIN_TOKENS` on, said as too small below.
        identical: The variant's files are the merged model's files, so that no measurement is needed.
        check: Whether the precision of the measurement holds; None where it needs no check.
    """
    if identical:
        return Assessment(verdict="pass", reason="The files are the merged model's own.")
    limits = [] if gate is None else _limits(quality, gate)
    if not limits:
        return Assessment(verdict="pass", reason="The policy sets no quality gate for this variant.")
    more = ""
    if own is not None and gate is not None and own.tokens >= MIN_TOKENS:
        limits += [(value, limit, f"{text} of its own set") for value, limit, text in _limits(own, gate)]
    elif own is not None:
        more = f" Its own set of {own.tokens} tokens is too small for a verdict; that needs {MIN_TOKENS}."
    broken = [text for value, limit, text in limits if value > limit]
    if quality.tokens < MIN_TOKENS:
        reason = f"Only {quality.tokens} held-out tokens were compared; a verdict needs {MIN_TOKENS}."
        return Assessment(verdict="inconclusive", reason=reason)
    if check is not None and check.verdict == "inconclusive":
        return Assessment(verdict="inconclusive", reason=f"The measurement could not be checked. {check.reason}")
    if broken:
        return Assessment(verdict="fail", reason=f"Too much quality was lost: {'; '.join(broken)}.")
    return Assessment(verdict="pass", reason=f"Within the gate: {'; '.join(text for _, _, text in limits)}.{more}")


def _limits(quality: Quality, gate: QualityGate) -> list[tuple[float, float, str]]:
    pairs = (
        ("perplexity ratio", quality.perplexity_ratio, gate.max_perplexity_ratio),
        ("mean KL", quality.mean_kl, gate.max_mean_kl),
    )
    return [
        (value, limit, f"{name} {value:.4f} against a limit of {limit:.4f} on {quality.tokens} tokens")
        for name, value, limit in pairs
        if limit is not None
    ]
