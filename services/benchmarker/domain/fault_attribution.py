"""Which side a difference between served and recorded quality is due to: the candidate, its record, or a machine.

Three deviations are compared, each the logarithm of a ratio of perplexities (positive: worse than recorded):

- `candidate`: the candidate as it is served, over its own record, on the windows of its manifest;
- `baseline`: the baseline as it is served in the same session, over its own record, on the windows of its manifest;
- `reference`: the baseline as it is served, over the merged model *as the candidate's record has it*, on the
  candidate's windows. The two are different models, so this one may differ for good reasons, and only counts where it
  is of the same size as `candidate`.

| candidate | baseline's record | reference | measured again | verdict, side at fault |
|---|---|---|---|---|
| agrees | any | any | any | pass |
| better | explains it | any | any | inconclusive, machine |
| better | else, or none | any | any | inconclusive, record |
| worse | explains it | any | any | inconclusive, machine |
| worse | none | alike | any | inconclusive, machine |
| worse | else | alike | no | inconclusive, record |
| worse | else | alike | yes | fail, candidate |
| worse | any other | else, or none | any | fail, candidate |

Why: no fault of loading makes a model better than its own files, so "better" always speaks against a measurement. A
baseline that deviates in the same direction, by two thirds to four times of the candidate's deviation, shows what the
machines do to a model that did not change; one that is off by far more has a fault of its own, and explains nothing. A
candidate that is worse by more than that, or alone, is served differently from its files. The one exception is a record
whose *reference* is too good by the same amount: then the record as a whole is shifted, unless a second measurement
confirmed it. Missing evidence never turns a failure into a pass.
"""

import math
from dataclasses import dataclass
from typing import Literal

from contracts.vocabulary import AttributedTo, Verdict

MAX_DEVIATION = 0.05
"""How far the served perplexity may be from the recorded one, as a ratio. The engine computes in 16 bit and with its
own kernels where the record was made with others: a few tenths of a percent (see the README); a wrongly read tensor
costs far more."""
MAX_EXPLAINED = 1.5
"""How many times the deviation of another model explains the candidate's, in logarithms."""
MAX_EXCESS = 4.0
"""How many times the candidate's deviation another model's may be: beyond, the two are not the same thing."""

Own = Literal["agrees", "better", "worse"]
Beside = Literal["none", "explains", "else"]
Shift = Literal["none", "alike", "else"]


@dataclass(frozen=True)
class Evidence:
    """What was measured, as logarithms of perplexity ratios; None where there is no such measurement.

    Not-a-number and infinity stand for an engine whose log-probabilities are not finite, and count as worse than
    everything.
    """

    candidate: float
    baseline: float | None = None
    reference: float | None = None
    measured_again: bool = False


@dataclass(frozen=True)
class Finding:
    """The verdict on a difference, and the side at fault; None where there is no difference."""

    verdict: Verdict
    attributed_to: AttributedTo | None


PASS = Finding("pass", None)
CANDIDATE = Finding("fail", "candidate")
RECORD = Finding("inconclusive", "measurement")
MACHINE = Finding("inconclusive", "machine")


def differs(deviation: float) -> bool:
    """Return whether a deviation is beyond what kernels and precisions account for."""
    return abs(_bounded(deviation)) > math.log1p(MAX_DEVIATION)


def assess_evidence(evidence: Evidence) -> Finding:
    """Return verdict and side at fault by the table above: total, and a function of the evidence alone."""
    own = classify_own(evidence.candidate)
    if own == "agrees":
        return PASS
    beside = classify_beside(evidence.candidate, evidence.baseline)
    shift = classify_shift(evidence.candidate, evidence.reference)
    return decide(own, beside, shift, measured_again=evidence.measured_again)


def decide(own: Own, beside: Beside, shift: Shift, *, measured_again: bool) -> Finding:
    """Return the row of the table for classified evidence."""
    if own == "agrees":
        return PASS
    if beside == "explains":
        return MACHINE
    if own == "better":
        return RECORD
    if shift != "alike":
        return CANDIDATE
    if beside == "none":
        return MACHINE
    return CANDIDATE if measured_again else RECORD


def classify_own(candidate: float) -> Own:
    """Return how the candidate as it is served stands to its record."""
    if not differs(candidate):
        return "agrees"
    return "worse" if _bounded(candidate) > 0 else "better"


def classify_beside(candidate: float, baseline: float | None) -> Beside:
    """Return whether the baseline's deviation from its own record explains the candidate's."""
    if baseline is None:
        return "none"
    return "explains" if _explains(baseline, candidate) else "else"


def classify_shift(candidate: float, reference: float | None) -> Shift:
    """Return whether the whole record of the candidate is shifted, its merged model by as much as the variant."""
    if reference is None:
        return "none"
    return "alike" if _explains(reference, candidate) and _explains(candidate, reference) else "else"


def _explains(other: float, own: float) -> bool:
    """Return whether a deviation is large enough, and in the right direction, to account for another one."""
    other, own = _bounded(other), _bounded(own)
    if math.isinf(other) or math.isinf(own):
        return other == own
    alike = abs(own) <= MAX_EXPLAINED * abs(other) and abs(other) <= MAX_EXCESS * abs(own)
    return differs(other) and (other > 0) == (own > 0) and alike


def _bounded(deviation: float) -> float:
    return math.inf if not math.isfinite(deviation) else deviation
