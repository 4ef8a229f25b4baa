"""Attributes a difference between served and recorded quality to the candidate, to its measurement, or to a machine.

Three deviations are compared, each the logarithm of a ratio of perplexities (positive: worse than recorded):

- `candidate`: the served candidate over its own record, on the windows of its manifest;
- `baseline`: the served baseline in the same session over its own record, on the windows of its manifest;
- `reference`: the served baseline over the merged model *as the candidate's record has it*, on the candidate's windows.
  The two are different models, so this deviation may have other reasons; it counts only if it has the same size as
  `candidate`.

| candidate | baseline's record | reference | verdict, side at fault |
|---|---|---|---|
| agrees | any | any | pass |
| better | explains it | any | inconclusive, machine |
| better | else, or none | any | inconclusive, measurement |
| worse | explains it | any | inconclusive, machine |
| worse | none | alike | inconclusive, machine |
| worse | else | alike | inconclusive, measurement |
| worse | any other | else, or none | fail, candidate |

Why: no fault of loading makes a model better than its own files, so "better" always indicates a wrong measurement. A
baseline that deviates in the same direction, by two thirds to four times of the candidate's deviation, shows the effect
of the machines on a model that did not change; a baseline that deviates by far more has a fault of its own and explains
nothing. A candidate that is worse by more than that, or alone, is served differently from its files. The one exception
is a record whose *reference* is too good by the same amount: then the whole record is shifted. Missing evidence never
turns a failure into a pass.
"""

import math
from dataclasses import dataclass
from typing import Literal

from contracts.vocabulary import AttributedTo, Verdict

MAX_DEVIATION = 0.05
"""Maximum deviation of the served perplexity from the recorded one, as a ratio. The engine computes in 16 bit and with
other kernels than the quantiser: that costs a few tenths of a percent (see the README); a wrongly read tensor costs far
more."""
MAX_EXPLAINED = 1.5
"""Largest ratio of the candidate's deviation to another model's that the latter explains, in logarithms."""
MAX_EXCESS = 4.0
"""Largest ratio of another model's deviation to the candidate's; above it, the two have different reasons."""

CandidateDeviation = Literal["agrees", "better", "worse"]
BaselineEvidence = Literal["none", "explains", "else"]
ReferenceEvidence = Literal["none", "alike", "else"]


@dataclass(frozen=True)
class Evidence:
    """The measured deviations, as logarithms of perplexity ratios; None if there is no such measurement.

    NaN and infinity mean that the engine's log-probabilities are not finite; they count as worst.
    """

    candidate: float
    baseline: float | None = None
    reference: float | None = None


@dataclass(frozen=True)
class Attribution:
    """The verdict on a difference, and the side at fault; None if there is no difference."""

    verdict: Verdict
    attributed_to: AttributedTo | None


PASS = Attribution("pass", None)
CANDIDATE = Attribution("fail", "candidate")
MEASUREMENT = Attribution("inconclusive", "measurement")
MACHINE = Attribution("inconclusive", "machine")


def differs(deviation: float) -> bool:
    """Return whether a deviation is larger than kernels and precisions explain."""
    return abs(_bounded(deviation)) > math.log1p(MAX_DEVIATION)


def assess_evidence(evidence: Evidence) -> Attribution:
    """Return the verdict and the side at fault, by the table above."""
    candidate = classify_candidate(evidence.candidate)
    if candidate == "agrees":
        return PASS
    baseline = classify_baseline(evidence.candidate, evidence.baseline)
    reference = classify_reference(evidence.candidate, evidence.reference)
    return decide(candidate, baseline, reference)


def decide(candidate: CandidateDeviation, baseline: BaselineEvidence, reference: ReferenceEvidence) -> Attribution:
    """Return the row of the table for classified evidence."""
    if candidate == "agrees":
        return PASS
    if baseline == "explains":
        return MACHINE
    if candidate == "better":
        return MEASUREMENT
    if reference != "alike":
        return CANDIDATE
    return MACHINE if baseline == "none" else MEASUREMENT


def classify_candidate(candidate: float) -> CandidateDeviation:
    """Return whether the served candidate agrees with its record, or is better or worse."""
    if not differs(candidate):
        return "agrees"
    return "worse" if _bounded(candidate) > 0 else "better"


def classify_baseline(candidate: float, baseline: float | None) -> BaselineEvidence:
    """Return whether the baseline's deviation from its own record explains the candidate's."""
    if baseline is None:
        return "none"
    return "explains" if _explains(baseline, candidate) else "else"


def classify_reference(candidate: float, reference: float | None) -> ReferenceEvidence:
    """Return whether the whole record of the candidate is shifted: its merged model as much as the variant."""
    if reference is None:
        return "none"
    return "alike" if _explains(reference, candidate) and _explains(candidate, reference) else "else"


def _explains(other: float, own: float) -> bool:
    """Return whether another model's deviation is large enough, and in the right direction, to explain `own`."""
    other, own = _bounded(other), _bounded(own)
    if math.isinf(other) or math.isinf(own):
        return other == own
    alike = abs(own) <= MAX_EXPLAINED * abs(other) and abs(other) <= MAX_EXCESS * abs(own)
    return differs(other) and (other > 0) == (own > 0) and alike


def _bounded(deviation: float) -> float:
    return math.inf if not math.isfinite(deviation) else deviation
