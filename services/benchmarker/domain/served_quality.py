"""Does the engine serve what the quantiser measured? A verdict on quality as it comes out of the serving engine.

Where the engine gives the log-probabilities of a prompt, it scores the very windows that the quantiser recorded with
the variant, so that text, tokenizer and sampling are out of the question: what differs was lost on the way into the
engine. Elsewhere only gross damage can be seen, and the verdict says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.facts import GateResult, ServedQuality
from contracts.manifests import HeldOutWindow
from contracts.policy import QualityGate

GATE = "served_quality"
MAX_DEVIATION = 0.05
"""How far the served perplexity may lie from the recorded one, as a ratio. The engine computes in 16 bit and with its
own kernels where the record was made with others: a few tenths of a percent (see the README); a wrongly read tensor
costs far more."""
MAX_OWN_ANSWER_RATIO = 3.0
"""How much less sure of its own greedy answers than the baseline a candidate may be. Models differ by some tens of
percent; damaged weights make the next token a matter of chance."""
_LARGEST_LOG = 100.0


@dataclass(frozen=True)
class WindowScore:
    """What one window costs, in nats over all its tokens but the first.

    Attributes:
        tokens: How many tokens were predicted.
        nll: Under the candidate as it is served.
        recorded_nll: Under the candidate's files, as the quantiser measured it.
        reference_nll: Under the merged model.
    """

    tokens: int
    nll: float
    recorded_nll: float
    reference_nll: float


def choose_windows(windows: Sequence[HeldOutWindow], *, context_tokens: int) -> tuple[HeldOutWindow, ...]:
    """Leave out windows that do not fit the context together with the one token that the engine must generate."""
    return tuple(window for window in windows if len(window.token_ids) < context_tokens)


def score_window(window: HeldOutWindow, logprobs: Sequence[float]) -> WindowScore:
    """Sum up what the engine said of a window."""
    return WindowScore(
        tokens=len(logprobs), nll=-sum(logprobs), recorded_nll=window.nll, reference_nll=window.reference_nll
    )


def assess_scored(scores: Sequence[WindowScore], gate: QualityGate | None) -> ServedQuality:
    """Judge a candidate by its score on the windows: against the quantiser's record, then against the policy.

    Args:
        scores: One per window, at least one.
        gate: The policy's limits for this variant.
    """
    tokens = sum(score.tokens for score in scores)
    served, recorded, reference = (
        math.fsum(values) / tokens
        for values in zip(*((one.nll, one.recorded_nll, one.reference_nll) for one in scores), strict=True)
    )
    if not math.isfinite(served):
        reason = "The engine's log-probabilities are not finite: it serves something else than the files hold."
        return ServedQuality(method="prompt_logprobs", tokens=tokens, verdict="fail", reason=reason)
    ratio, recorded_ratio = _exp(served - reference), _exp(recorded - reference)
    deviation = _exp(abs(served - recorded)) - 1.0
    limit = gate.max_perplexity_ratio if gate else None
    said = f"The served perplexity is {ratio:.4f} times the merged model's on {tokens} tokens"
    if deviation > MAX_DEVIATION:
        verdict = "fail"
        reason = (
            f"{said}, where the files gave {recorded_ratio:.4f}: they differ by {deviation:.2%}, more than "
            f"{MAX_DEVIATION:.0%}. The engine does not serve what was measured; look at how it loads this format."
        )
    elif limit is not None and ratio > limit:
        verdict = "fail"
        reason = f"{said}, above the policy's limit of {limit:.4f} (the files gave {recorded_ratio:.4f})."
    else:
        verdict, reason = "pass", f"{said}; the files gave {recorded_ratio:.4f}."
    return ServedQuality.model_validate({
        "method": "prompt_logprobs", "tokens": tokens, "perplexity": _exp(served),
        "reference_perplexity": _exp(reference), "perplexity_ratio": ratio, "recorded_ratio": recorded_ratio,
        "verdict": verdict, "reason": reason,
    })  # fmt: skip


def assess_own_answers(candidate: Sequence[float], baseline: Sequence[float]) -> ServedQuality:
    """Judge a candidate by how sure it is of its own greedy answers, beside the baseline of its.

    This is no perplexity of a given text: it shows a model that lost its wits, not one that lost some percent.

    Args:
        candidate: Log-probability of each token that it generated.
        baseline: The same for the baseline, on the same prompts.
    """
    if not candidate or not baseline:
        return not_measured("The serving engine gives no log-probabilities.")
    tokens = len(candidate)
    ours, theirs = (-math.fsum(one) / len(one) for one in (candidate, baseline))
    if not math.isfinite(ours) or not math.isfinite(theirs):
        reason = "The log-probabilities of generated tokens are not finite."
        verdict = "fail" if math.isfinite(theirs) else "inconclusive"
        return ServedQuality.model_validate(
            {"method": "generated_logprobs", "tokens": tokens, "verdict": verdict, "reason": reason}
        )
    ratio = _exp(ours - theirs)
    within = ratio <= MAX_OWN_ANSWER_RATIO
    reason = (
        f"This engine scores no given text. Over its own {tokens} generated tokens the candidate's perplexity is "
        f"{ratio:.3f} times the baseline's over its own, {'within' if within else 'above'} the limit of "
        f"{MAX_OWN_ANSWER_RATIO:g}, which only gross damage exceeds."
    )
    return ServedQuality(
        method="generated_logprobs", tokens=tokens, perplexity=_exp(ours), reference_perplexity=_exp(theirs),
        perplexity_ratio=ratio, verdict="pass" if within else "fail", reason=reason,
    )  # fmt: skip


def not_measured(reason: str) -> ServedQuality:
    """Say that there is no evidence, and why."""
    return ServedQuality(method="none", verdict="inconclusive", reason=reason)


def gate_of(served: ServedQuality, gate: QualityGate | None) -> GateResult | None:
    """Give the result that counts for the benchmark's verdict.

    None where nothing could be measured and the policy asks for no quality of this variant.
    """
    if served.method == "none" and gate is None:
        return None
    scored = served.method == "prompt_logprobs"
    limit = (gate.max_perplexity_ratio if gate else None) if scored else None
    return GateResult(
        name=GATE, verdict=served.verdict, value=served.perplexity_ratio, limit=limit, reason=served.reason
    )


def _exp(nats: float) -> float:
    """Exponentiate, bounded so that the result stays a JSON number."""
    return math.exp(min(nats, _LARGEST_LOG))
