"""Verdict on the serving engine's quality: does it match the quantiser's measurements?

An engine that returns prompt log-probabilities scores the windows that the quantiser recorded. Text, tokenizer and
sampling are then identical, so a difference comes from loading or computing. Other engines show only gross damage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.facts import GateResult, ServedQuality
from contracts.manifests import HeldOutWindow
from contracts.policy import QualityGate
from contracts.vocabulary import Verdict

GATE = "served_quality"
MAX_DEVIATION = 0.05
"""Largest relative deviation of served from recorded perplexity.

16-bit arithmetic and other kernels cost a few tenths of a percent (see the README); a misread tensor costs far more.
"""
MAX_OWN_ANSWER_RATIO = 3.0
"""Largest ratio of the candidate's perplexity on its own greedy answers to the baseline's.

Models differ by some tens of percent; damaged weights give random tokens.
"""
LEAST_TOKENS = 32
"""Minimum tokens of a window cut to the context; below, 16-bit rounding weighs too much."""
_LARGEST_LOG = 100.0


@dataclass(frozen=True)
class WindowScore:
    """A window's negative log-likelihoods in nats, summed over predicted tokens.

    Attributes:
        tokens: Predicted tokens.
        nll: From the served candidate.
        recorded_nll: From the candidate's files, measured by the quantiser.
        reference_nll: From the merged model.
    """

    tokens: int
    nll: float
    recorded_nll: float
    reference_nll: float


def choose_windows(windows: Sequence[HeldOutWindow], *, context_tokens: int) -> tuple[HeldOutWindow, ...]:
    """Return the windows that fit the context, with the one token that the engine must generate.

    A longer window is cut, if it was recorded token by token and at least `LEAST_TOKENS` tokens fit.
    """
    fitting = (_fit_window(window, context_tokens - 1) for window in windows)
    return tuple(window for window in fitting if window is not None)


def _fit_window(window: HeldOutWindow, limit: int) -> HeldOutWindow | None:
    """Return a window with at most `limit` tokens; None if it is longer and cannot be cut."""
    if len(window.token_ids) <= limit:
        return window
    predicted = limit - 1
    nlls, reference_nlls = window.token_nlls[:predicted], window.reference_token_nlls[:predicted]
    if limit < LEAST_TOKENS or len(nlls) < predicted or len(reference_nlls) < predicted:
        return None
    return HeldOutWindow(
        token_ids=window.token_ids[:limit],
        reference_nll=math.fsum(reference_nlls),
        nll=math.fsum(nlls),
        reference_token_nlls=reference_nlls,
        token_nlls=nlls,
    )


def score_window(window: HeldOutWindow, logprobs: Sequence[float]) -> WindowScore:
    """Return a window's score from the engine's log-probabilities."""
    return WindowScore(
        tokens=len(logprobs), nll=-sum(logprobs), recorded_nll=window.nll, reference_nll=window.reference_nll
    )


def assess_scored(scores: Sequence[WindowScore], gate: QualityGate | None) -> ServedQuality:
    """Return the verdict on a candidate's scores, by the quantiser's record, then by the policy.

    Args:
        scores: One per window, at least one.
        gate: The policy's limits for this variant.
    """
    tokens = sum(score.tokens for score in scores)
    served = _mean(scores, lambda score: score.nll)
    recorded = _mean(scores, lambda score: score.recorded_nll)
    reference = _mean(scores, lambda score: score.reference_nll)
    if not math.isfinite(served):
        reason = "The engine's log-probabilities are not finite: it does not serve the content of the files."
        return ServedQuality(method="prompt_logprobs", tokens=tokens, verdict="fail", reason=reason)
    ratio, recorded_ratio = _exp(served - reference), _exp(recorded - reference)
    reason = f"The served perplexity is {ratio:.4f} times the merged model's on {tokens} tokens"
    limit = gate.max_perplexity_ratio if gate else None
    differs = not abs(served - recorded) <= math.log1p(MAX_DEVIATION)  # true for NaN
    exceeds = limit is not None and ratio > limit
    if differs:
        reason += (
            f"; the record says {recorded_ratio:.4f}. The deviation of {_exp(served - recorded) - 1.0:+.2%} is above "
            f"the limit of {MAX_DEVIATION:.0%}: the engine does not serve what was measured. Check how it loads this "
            "format, and the machines that measured and that serve."
        )
    elif exceeds:
        reason += f", above the policy's limit of {limit:.4f} (the record says {recorded_ratio:.4f})."
    else:
        reason += f"; the record says {recorded_ratio:.4f}."
    return ServedQuality(
        method="prompt_logprobs",
        tokens=tokens,
        perplexity=_exp(served),
        reference_perplexity=_exp(reference),
        perplexity_ratio=ratio,
        recorded_ratio=recorded_ratio,
        verdict="fail" if differs or exceeds else "pass",
        reason=reason,
    )


def assess_own_answers(candidate: Sequence[float], baseline: Sequence[float]) -> ServedQuality:
    """Return the verdict on a candidate's perplexity on its own greedy answers, relative to the baseline's.

    It detects gross damage, not a loss of some percent.

    Args:
        candidate: Log-probability of each token that the candidate generated.
        baseline: The same for the baseline on the same prompts.
    """
    if not candidate or not baseline:
        return not_measured("The serving engine returns no log-probabilities.")
    tokens = len(candidate)
    nll, baseline_nll = (-math.fsum(logprobs) / len(logprobs) for logprobs in (candidate, baseline))
    if not math.isfinite(nll) or not math.isfinite(baseline_nll):
        reason = "The log-probabilities of generated tokens are not finite."
        verdict: Verdict = "fail" if math.isfinite(baseline_nll) else "inconclusive"
        return ServedQuality(method="generated_logprobs", tokens=tokens, verdict=verdict, reason=reason)
    ratio = _exp(nll - baseline_nll)
    within = ratio <= MAX_OWN_ANSWER_RATIO
    reason = (
        f"This engine scores no given text. The candidate's perplexity of its own {tokens} generated tokens is "
        f"{ratio:.3f} times the baseline's of its own, {'within' if within else 'above'} the limit of "
        f"{MAX_OWN_ANSWER_RATIO:g}, which only gross damage exceeds."
    )
    return ServedQuality(
        method="generated_logprobs",
        tokens=tokens,
        perplexity=_exp(nll),
        reference_perplexity=_exp(baseline_nll),
        perplexity_ratio=ratio,
        verdict="pass" if within else "fail",
        reason=reason,
    )


def not_measured(reason: str) -> ServedQuality:
    """Return an inconclusive result with its reason."""
    return ServedQuality(method="none", verdict="inconclusive", reason=reason)


def gate_of(served: ServedQuality, gate: QualityGate | None) -> GateResult | None:
    """Return the benchmark's gate result; None if nothing was measured and the policy has no quality gate."""
    if served.method == "none" and gate is None:
        return None
    scored = served.method == "prompt_logprobs"
    limit = (gate.max_perplexity_ratio if gate else None) if scored else None
    return GateResult(
        name=GATE,
        verdict=served.verdict,
        value=served.perplexity_ratio,
        limit=limit,
        reason=served.reason,
    )


def _mean(scores: Sequence[WindowScore], read: Callable[[WindowScore], float]) -> float:
    """Return the mean per predicted token; NaN if a score is not finite."""
    mean = sum(read(score) for score in scores) / sum(score.tokens for score in scores)
    return mean if math.isfinite(mean) else math.nan


def _exp(nats: float) -> float:
    """Return e^nats for nats up to `_LARGEST_LOG`, so that the result is a JSON number."""
    return math.exp(min(nats, _LARGEST_LOG))
