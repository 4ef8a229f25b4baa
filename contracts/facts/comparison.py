"""Comparison of a release's variants."""

from __future__ import annotations

from ..codes import Code
from ..vocabulary import Contract, Variant, Verdict


class ComparedVariant(Contract):
    """A requested variant with its measurements, verdict and reason; figures that were not measured are None.

    All ratios and `mean_kl` are relative to the merged model.

    Attributes:
        on_pareto_front: No other passed variant is at least as good in every criterion and better in one.
        served_perplexity_ratio: Measured through the serving engine.
        own_perplexity_ratio: Measured on the checkpoint's own evaluation set.
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
        """Return whether the verdict is final; before, it is inconclusive without a code."""
        return self.verdict == "pass" or self.code is not None


class Comparison(Contract):
    """The variants of a release; `winner` is None if none passed, or while verdicts are missing."""

    winner: Variant | None = None
    variants: tuple[ComparedVariant, ...]
