"""Does the engine serve what the quantiser measured? A verdict on quality as it comes out of the serving engine.

Where the engine gives the log-probabilities of a prompt, it scores the very windows that the quantiser recorded with
the variant, so that text, tokenizer and sampling are out of the question: what differs was lost on the way into the
engine. Elsewhere only gross damage can be seen, and the verdict says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from contracts.codes import Code
from contracts.facts import GateResult, Measurement, ServedQuality
from contracts.manifests import HeldOutWindow
from contracts.policy import QualityGate
from contracts.vocabulary import AttributedTo
from services.benchmarker.domain.fault_attribution import MAX_DEVIATION, Evidence, Finding, assess_evidence, differs

GATE = "served_quality"
SUSPECT: Code = "measurement_suspect"
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


@dataclass(frozen=True)
class BaselineScores:
    """What the baseline scored beside the candidate.

    Attributes:
        own: On the windows of its own record.
        on_candidates: On the candidate's windows; their `reference_nll` is that of the candidate's record.
        missing: Why `own` is empty, as a sentence.
    """

    own: tuple[WindowScore, ...] = ()
    on_candidates: tuple[WindowScore, ...] = ()
    missing: str = ""


def choose_windows(windows: Sequence[HeldOutWindow], *, context_tokens: int) -> tuple[HeldOutWindow, ...]:
    """Leave out windows that do not fit the context together with the one token that the engine must generate."""
    return tuple(window for window in windows if len(window.token_ids) < context_tokens)


def score_window(window: HeldOutWindow, logprobs: Sequence[float]) -> WindowScore:
    """Sum up what the engine said of a window."""
    return WindowScore(
        tokens=len(logprobs), nll=-sum(logprobs), recorded_nll=window.nll, reference_nll=window.reference_nll
    )


def mean_deviation(scores: Sequence[WindowScore]) -> float:
    """Return how far the served perplexity is from the recorded one, as the logarithm of their ratio."""
    return _mean(scores, lambda one: one.nll - one.recorded_nll)


def assess_scored(
    scores: Sequence[WindowScore],
    gate: QualityGate | None,
    *,
    baseline: BaselineScores | None = None,
    measurement: Measurement | None = None,
    measured_again: bool = False,
) -> ServedQuality:
    """Judge a candidate by its score on the windows: against the quantiser's record, then against the policy.

    Args:
        scores: One per window, at least one.
        gate: The policy's limits for this variant.
        baseline: What the baseline scored in the same session; needed only where the candidate differs.
        measurement: How the record was measured, for the reason.
        measured_again: The record is that of a second measurement.
    """
    beside = baseline or BaselineScores()
    evidence = _evidence(scores, beside, measured_again=measured_again)
    finding = assess_evidence(evidence)
    tokens = sum(score.tokens for score in scores)
    served = _mean(scores, lambda one: one.nll)
    recorded, reference = _mean(scores, lambda one: one.recorded_nll), _mean(scores, lambda one: one.reference_nll)
    ratio, recorded_ratio = _exp(served - reference), _exp(recorded - reference)
    said = f"The served perplexity is {ratio:.4f} times the merged model's on {tokens} tokens"
    finite = math.isfinite(served)
    verdict, fault = finding.verdict, finding.attributed_to
    limit = gate.max_perplexity_ratio if gate else None
    if not finite:
        said = "The engine's log-probabilities are not finite: it serves something else than the files hold."
    elif fault is not None:
        said += (
            f", where the files gave {recorded_ratio:.4f}{_how(measurement)}: they differ by "
            f"{_apart(evidence.candidate)}, more than {MAX_DEVIATION:.0%}."
        )
    elif limit is not None and ratio > limit:
        verdict, fault = "fail", "candidate"
        said += f", above the policy's limit of {limit:.4f} (the files gave {recorded_ratio:.4f})."
    else:
        said += f"; the files gave {recorded_ratio:.4f}."
    figures = (
        {
            "perplexity": _exp(served),
            "reference_perplexity": _exp(reference),
            "perplexity_ratio": ratio,
            "recorded_ratio": recorded_ratio,
        }
        if finite
        else {}
    )
    return ServedQuality.model_validate(
        {
            "method": "prompt_logprobs",
            "tokens": tokens,
            **figures,
            "verdict": verdict,
            "attributed_to": fault,
            "baseline_deviation_ratio": _ratio(evidence.baseline),
            "baseline_reference_ratio": _ratio(evidence.reference),
            "code": SUSPECT if verdict == "inconclusive" else None,
            "reason": said if finding.attributed_to is None else f"{said} {_explain(finding, evidence, beside)}",
        }
    )


def _evidence(scores: Sequence[WindowScore], beside: BaselineScores, *, measured_again: bool) -> Evidence:
    shift = None
    if beside.on_candidates:
        shift = _mean(beside.on_candidates, lambda one: one.nll - one.reference_nll)
    return Evidence(
        candidate=mean_deviation(scores),
        baseline=mean_deviation(beside.own) if beside.own else None,
        reference=shift,
        measured_again=measured_again,
    )


def _explain(finding: Finding, evidence: Evidence, beside: BaselineScores) -> str:
    """Return what the baseline showed, who is at fault by that, and what to do."""
    shown = f"The baseline's record cannot be compared: {beside.missing or 'it was not scored.'}"
    if evidence.baseline is not None:
        relation = "differs from" if differs(evidence.baseline) else "agrees with"
        shown = f"The baseline as it is served {relation} its own record ({_apart(evidence.baseline)})."
    if evidence.reference is not None:
        shown += (
            f" On the candidate's windows the baseline is served {_apart(evidence.reference)} from what the record "
            "says of the merged model."
        )
    return f"{shown} {_AT_FAULT[finding.attributed_to or 'candidate']}"


_AT_FAULT: Mapping[AttributedTo, str] = {
    "candidate": (
        "At fault: the candidate. The engine does not serve what was measured; look at how it loads this format."
    ),
    "measurement": (
        "At fault: the record. The quality was measured wrongly or on other files; measure it again, on another "
        "machine or in plain float32."
    ),
    "machine": (
        "At fault: a machine, the one that measured or the one that serves, because the baseline differs in the same "
        "way. Measure again elsewhere, and run the engine elsewhere."
    ),
}


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
            {
                "method": "generated_logprobs",
                "tokens": tokens,
                "verdict": verdict,
                "reason": reason,
                "attributed_to": "candidate" if verdict == "fail" else None,
            }
        )
    ratio = _exp(ours - theirs)
    within = ratio <= MAX_OWN_ANSWER_RATIO
    reason = (
        f"This engine scores no given text. Over its own {tokens} generated tokens the candidate's perplexity is "
        f"{ratio:.3f} times the baseline's over its own, {'within' if within else 'above'} the limit of "
        f"{MAX_OWN_ANSWER_RATIO:g}, which only gross damage exceeds."
    )
    return ServedQuality(
        method="generated_logprobs",
        tokens=tokens,
        perplexity=_exp(ours),
        reference_perplexity=_exp(theirs),
        perplexity_ratio=ratio,
        verdict="pass" if within else "fail",
        reason=reason,
        attributed_to=None if within else "candidate",
    )


def not_measured(reason: str) -> ServedQuality:
    """Say that there is no evidence, and why."""
    return ServedQuality(method="none", verdict="inconclusive", reason=reason)


def gate_of(served: ServedQuality, gate: QualityGate | None, *, measured_again: bool = False) -> GateResult | None:
    """Return the result that counts for the benchmark's verdict.

    None where nothing could be measured and the policy asks for no quality of this variant. A suspect record is settled
    only by a score on the windows of the new one.
    """
    unsettled = measured_again and served.method != "prompt_logprobs" and served.verdict != "fail"
    if unsettled:
        reason = f"The first record is suspect, and nothing was scored on the second's windows: {served.reason}"
        return GateResult(name=GATE, verdict="inconclusive", reason=reason, code=SUSPECT)
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
        code=served.code,
        attributed_to=served.attributed_to,
    )


def _mean(scores: Sequence[WindowScore], read: Callable[[WindowScore], float]) -> float:
    """Return a figure per predicted token; not a number where one of the scores is none."""
    mean = sum(read(one) for one in scores) / sum(one.tokens for one in scores)
    return mean if math.isfinite(mean) else math.nan


def _how(measurement: Measurement | None) -> str:
    """Return how a record was measured: ` (measured in bfloat16 with avx512_core_bf16 on 2 threads)`."""
    if measurement is None:
        return ""
    processor = measurement.processor
    what = processor.instruction_set or processor.device
    return f" (measured in {measurement.precision} with {what} on {processor.threads} threads)"


def _ratio(deviation: float | None) -> float | None:
    return None if deviation is None or not math.isfinite(deviation) else _exp(deviation)


def _apart(deviation: float) -> str:
    return f"{_exp(deviation) - 1.0:+.2%}" if math.isfinite(deviation) else "more than can be computed"


def _exp(nats: float) -> float:
    """Exponentiate, bounded so that the result stays a JSON number."""
    return math.exp(min(nats, _LARGEST_LOG))
