"""The choice among variants that passed: best by the objective on the Pareto front of their measurements.

Figures are costs: lower is better, and throughput is negated. Figures whose difference may be noise tie, and the next
criterion decides. An unmeasured figure is worse than any measured one. The ranking is published as `comparison`, where
`slipway show` reads it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from contracts.facts import Quality, VariantBenchmarked
from contracts.policy import Objective
from contracts.vocabulary import Variant

CRITERIA: Mapping[Objective, tuple[str, ...]] = {
    "quality": ("perplexity_ratio", "ttft_ms.p95", "ttft_ms.p50", "tps_system", "weights_bytes"),
    "latency": ("ttft_ms.p95", "ttft_ms.p50", "tps_system", "perplexity_ratio", "weights_bytes"),
    "cost": ("weights_bytes", "perplexity_ratio", "ttft_ms.p95", "ttft_ms.p50", "tps_system"),
}
"""Comparison criteria in order; each objective uses all of them, so the Pareto front is the same."""
PRICED = ("tps_system", *(name for name in CRITERIA["cost"] if name != "tps_system"))
"""Criteria of `cost` if all variants were measured on machines of one price: highest throughput is cheapest."""
UNKNOWN_NOISE_RATIO = 0.025
"""Relative half-width of the interval of a latency or throughput without its own."""
BYTES_NOISE_RATIO = 0.01
"""Relative half-width for sizes: they are exact, but differences below twice this do not decide."""
MOST_BEHIND_RATIO = 0.10
"""Largest relative gap to the best figure that counts as a tie, however wide the intervals."""
_Z95 = 1.96


@dataclass(frozen=True)
class Figure:
    """A measured cost with its 95 % interval, and its text."""

    value: float
    low: float
    high: float
    text: str

    def ties(self, best: "Figure") -> bool:
        """Return whether the gap to the best figure may be noise: the intervals overlap and the gap is small."""
        return self.low <= best.high and self.value <= best.value + MOST_BEHIND_RATIO * abs(best.value)


UNMEASURED = Figure(math.inf, math.inf, math.inf, "not measured")


@dataclass(frozen=True)
class Entrant:
    """A variant that passed, with its measurements."""

    variant: Variant
    quality: Quality
    weights_bytes: int
    benchmark: VariantBenchmarked


@dataclass(frozen=True)
class Ranking:
    """The winner, the Pareto front, and the reason for each variant."""

    winner: Variant | None
    front: frozenset[Variant]
    reasons: Mapping[Variant, str]


Costs = Mapping[str, Figure]
Reader = Callable[[Entrant], Figure | None]


def rank(objective: Objective, entrants: Iterable[Entrant]) -> Ranking:
    """Rank the variants; the result does not depend on their order.

    From the Pareto front, the variants that tie with the best by the first criterion stay, then by the second, and so
    on. Remaining ties are broken by the exact figures in the same order, then by the order of `Variant`.
    """
    field = sorted(entrants, key=lambda entrant: get_args(Variant).index(entrant.variant))
    measured = measure(field)
    dominators = {variant: _dominators(variant, measured) for variant in measured}
    front = [variant for variant in measured if not dominators[variant]]
    beaten = {variant: next(by for by in front if by in them) for variant, them in dominators.items() if them}
    reasons = {variant: _dominated(by, measured[by], measured[variant]) for variant, by in beaten.items()}
    left, decisive, criteria = front, "", criteria_of(objective, field)
    for criterion in criteria:
        best = min(left, key=lambda variant: measured[variant][criterion].value, default=None)
        tied = [variant for variant in left if best and measured[variant][criterion].ties(measured[best][criterion])]
        if best is not None and tied != left:
            decisive = criterion
            reasons |= {variant: _behind(criterion, variant, best, measured) for variant in left if variant not in tied}
        left = tied
    winner = min(left, key=lambda variant: [measured[variant][name].value for name in criteria], default=None)
    reasons |= dict.fromkeys(left, f"As good as {winner} in everything.")
    if winner is not None:
        reasons[winner] = _won(objective, decisive, alone=len(field) == 1)
    return Ranking(winner=winner, front=frozenset(front), reasons=reasons)


def criteria_of(objective: Objective, field: Iterable[Entrant]) -> tuple[str, ...]:
    """Return the comparison criteria in order."""
    prices = {entrant.benchmark.machine_price_per_hour for entrant in field}
    return PRICED if objective == "cost" and len(prices) == 1 and None not in prices else CRITERIA[objective]


def measure(field: Sequence[Entrant]) -> dict[Variant, dict[str, Figure]]:
    """Return each variant's figure by criterion; per criterion, the first reader that can read all variants is used."""
    figures: dict[Variant, dict[str, Figure]] = {entrant.variant: {} for entrant in field}
    for criterion, readers in _READERS.items():
        answers = [{entrant.variant: read(entrant) for entrant in field} for read in readers]
        scale = next((figures for figures in answers if None not in figures.values()), answers[-1])
        for variant, figure in scale.items():
            figures[variant][criterion] = figure or UNMEASURED
    return figures


def _dominators(variant: Variant, measured: Mapping[Variant, Costs]) -> list[Variant]:
    """Return the variants that are at least as good in every criterion and better in one."""
    own = [figure.value for figure in measured[variant].values()]
    dominators = []
    for other, costs in measured.items():
        theirs = [figure.value for figure in costs.values()]
        if theirs != own and all(a <= b for a, b in zip(theirs, own, strict=True)):
            dominators.append(other)
    return dominators


def _dominated(by: Variant, costs: Costs, own: Costs) -> str:
    better = [criterion for criterion in costs if costs[criterion].value < own[criterion].value]
    rest = ", ".join(criterion for criterion in costs if criterion not in better)
    return f"Dominated: {by} is better in {', '.join(better)}" + (f", and as good in {rest}." if rest else ".")


def _behind(criterion: str, variant: Variant, best: Variant, measured: Mapping[Variant, Costs]) -> str:
    return (
        f"Behind {best} in {criterion}: {measured[variant][criterion].text} against {measured[best][criterion].text}."
    )


def _won(objective: Objective, decisive: str, *, alone: bool) -> str:
    if alone:
        return "The only one that passed."
    return f"Best by {objective}" + (f", decided by {decisive}." if decisive else ".")


# -- figures, as costs -------------------------------------------------------------------------------------------------


def _as_served(entrant: Entrant) -> Figure | None:
    """Return the perplexity ratio to the merged model from the serving engine's prompt log-probabilities."""
    served = entrant.benchmark.served_quality
    if served is None or served.method != "prompt_logprobs" or served.perplexity_ratio is None:
        return None
    return _perplexity(served.perplexity_ratio, entrant.quality.mean_kl, served.tokens)


def _as_quantised(entrant: Entrant) -> Figure | None:
    return _perplexity(entrant.quality.perplexity_ratio, entrant.quality.mean_kl, entrant.quality.tokens)


def _perplexity(ratio: float, mean_kl: float, tokens: int) -> Figure | None:
    """Return the perplexity ratio to the merged model, with its interval.

    The ratio is the exponential of a mean over tokens of log-probability differences. To second order their variance is
    twice their KL divergence, so mean KL and token count give the interval. A variant of the merged files has zero
    divergence and needs no tokens.
    """
    divergence = max(mean_kl, 0.0)
    if tokens == 0 and divergence > 0.0:
        return None
    error = _Z95 * math.sqrt(2.0 * divergence / max(tokens, 1))
    return _around(ratio, error, f"{ratio:.4g}")


def _against_baseline(metric: str, *, sign: float = 1.0) -> Reader:
    """Return a reader of the ratio to the baseline, measured in the same minutes as the variant."""

    def read(entrant: Entrant) -> Figure | None:
        measured = next((ratio for ratio in entrant.benchmark.ratios if ratio.metric == metric), None)
        if measured is None:
            return None
        text = f"{measured.value:.3g} times the baseline's"
        if measured.low == measured.high:  # noise was not measured
            return _around(sign * measured.value, UNKNOWN_NOISE_RATIO, text)
        ends = sorted((sign * measured.low, sign * measured.value, sign * measured.high))
        return Figure(sign * measured.value, ends[0], ends[2], text)

    return read


def _ttft(statistic: str) -> Reader:
    def read(entrant: Entrant) -> Figure | None:
        value: float | None = getattr(entrant.benchmark.candidate_summary.ttft_ms, statistic)
        return None if value is None else _around(value, UNKNOWN_NOISE_RATIO, f"{value:.4g} ms")

    return read


def _throughput(entrant: Entrant) -> Figure | None:
    rate = entrant.benchmark.candidate_summary.tps_system
    return _around(-rate, UNKNOWN_NOISE_RATIO, f"{rate:.4g} tokens/s")


def _size(entrant: Entrant) -> Figure | None:
    return _around(float(entrant.weights_bytes), BYTES_NOISE_RATIO, f"{entrant.weights_bytes / 1e6:.4g} MB")


def _around(value: float, noise_ratio: float, text: str) -> Figure:
    margin = abs(value) * noise_ratio
    return Figure(value, value - margin, value + margin, text)


_READERS: Mapping[str, tuple[Reader, ...]] = {
    "perplexity_ratio": (_as_served, _as_quantised),
    "ttft_ms.p95": (_against_baseline("ttft_ms.p95"), _ttft("p95")),
    "ttft_ms.p50": (_against_baseline("ttft_ms.p50"), _ttft("p50")),
    "tps_system": (_against_baseline("tps_system", sign=-1.0), _throughput),
    "weights_bytes": (_size,),
}
