"""Comparison of a release's variants: the chosen one, and the reasons against the others."""

from __future__ import annotations

from ..codes import Code
from ..vocabulary import Contract, Variant, Verdict


class ComparedVariant(Contract):
    """A requested variant with its measurements, verdict and reason; a figure that was not measured is None.

    `perplexity_ratio` (through the serving engine: `served_perplexity_ratio`, on the checkpoint's own evaluation set:
    `own_perplexity_ratio`) and `mean_kl` are against the merged model, `size_ratio` is against its weights.
    `on_pareto_front`: no other passed variant is at least as good in every criterion and better in one.
    """

    variant: Variant
    verdict: Verdict
    code: Code | None = None
    reason: str
    on_pareto_front: bool = False
    size_bytes: int | None = None
    size_ratio: float | None = None
    perplexity_ratio: float | None = None
    served_perplexity_ratio: float | None = None
    own_perplexity_ratio: float | None = None
    mean_kl: float | None = None
    p99_kl: float | None = None
    top1_agreement_ratio: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    tps_system: float | None = None
    million_tokens_price: float | None = None

    @property
    def is_judged(self) -> bool:
        """Return whether the variant has its verdict; until then the verdict is inconclusive, without a code."""
        return self.verdict == "pass" or self.code is not None


class Comparison(Contract):
    """The variants of a release side by side; `winner` is None if none passed, or while some have no verdict."""

    winner: Variant | None = None
    variants: tuple[ComparedVariant, ...]
