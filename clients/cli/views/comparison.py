"""The variants of a release side by side, as the registry compared them. Pure."""

from collections.abc import Iterable

from contracts.facts import ComparedVariant, Comparison, RegisteredVariant

COLUMNS = ("variant", "size", "ratio", "ppl", "served", "KL", "p99 KL", "top-1", "TTFT ms", "TPS", "price", "verdict")
"""`ratio` is the size relative to the merged model. `ppl` (by the files) and `served` (by the engine) are perplexities
relative to the merged model. KL is the mean, TTFT is p50/p95, `price` is per million output tokens."""
LEGEND = (
    "ratio: size to the merged model's; ppl: perplexity to the merged model's, by the files; served: by the engine; "
    "KL in nats a token; top-1: share of the same likeliest token; TTFT: p50/p95; price: of a million "
    "tokens at this TPS"
)


def row(variant: ComparedVariant, comparison: Comparison) -> tuple[str, ...]:
    """Return the cells of a variant, in the order of `COLUMNS`."""
    verdict = variant.verdict if variant.is_judged else "-"
    return (
        variant.variant,
        "-" if variant.size_bytes is None else f"{variant.size_bytes / 1e6:.0f} MB",
        _plain(variant.size_ratio, 2, "x"),
        _plain(variant.perplexity_ratio, 4, "x"),
        _plain(variant.served_perplexity_ratio, 4, "x"),
        _plain(variant.mean_kl, 4),
        _plain(variant.p99_kl, 3),
        _plain(variant.top1_agreement_ratio, 3),
        "-" if variant.ttft_p50_ms is None else f"{variant.ttft_p50_ms:.0f}/{_plain(variant.ttft_p95_ms, 0)}",
        _plain(variant.tps_system, 1),
        "" if variant.million_tokens_price is None else f"{variant.million_tokens_price:.4g}",
        "chosen" if variant.variant == comparison.winner else verdict,
    )


def why(variant: ComparedVariant) -> str:
    """Return the reason for or against a variant: `gptq-int4: quality_gate_failed: too much quality was lost`."""
    return ": ".join(part for part in (variant.variant, variant.code, variant.reason) if part)


def on_own_set(variants: Iterable[ComparedVariant]) -> str:
    """Return the perplexities on the checkpoint's own evaluation set as text; empty without a set."""
    measured = [each for each in variants if each.own_perplexity_ratio is not None]
    texts = (f"{each.variant} {_plain(each.own_perplexity_ratio, 4, 'x')}" for each in measured)
    return f"perplexity on its own evaluation set: {', '.join(texts)}" if measured else ""


def of_registered(variants: Iterable[RegisteredVariant]) -> Comparison:
    """Return the variants of a version's manifest, in place of the lost record of its release."""
    rows = tuple(
        ComparedVariant(
            variant=each.variant,
            verdict="inconclusive",
            reason="",
            size_bytes=each.weights_bytes,
            size_ratio=each.size_ratio,
            perplexity_ratio=each.quality.perplexity_ratio,
            mean_kl=each.quality.mean_kl,
            p99_kl=each.quality.p99_kl,
            top1_agreement_ratio=each.quality.top1_agreement_ratio,
        )
        for each in variants
    )
    return Comparison(variants=rows)


def _plain(value: float | None, digits: int, before: str = "") -> str:
    return "-" if value is None else f"{before}{value:.{digits}f}"
