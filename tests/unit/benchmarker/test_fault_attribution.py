"""Who is at fault when served and recorded quality differ: every row of the table, and what holds for any figures."""

import math
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.benchmarker.domain.fault_attribution import (
    CANDIDATE,
    MACHINE,
    MAX_DEVIATION,
    MAX_EXCESS,
    MAX_EXPLAINED,
    MEASUREMENT,
    PASS,
    BaselineEvidence,
    CandidateDeviation,
    Evidence,
    ReferenceEvidence,
    assess_evidence,
    classify_baseline,
    classify_candidate,
    classify_reference,
    decide,
)

AGREES = {
    ("agrees", beside, shift): PASS
    for beside, shift in product(get_args(BaselineEvidence), get_args(ReferenceEvidence))
}
BETTER = {
    ("better", beside, shift): MACHINE if beside == "explains" else MEASUREMENT
    for beside, shift in product(get_args(BaselineEvidence), get_args(ReferenceEvidence))
}
WORSE = {
    **{("worse", "explains", shift): MACHINE for shift in get_args(ReferenceEvidence)},
    **{("worse", beside, shift): CANDIDATE for beside, shift in product(("none", "else"), ("none", "else"))},
    ("worse", "none", "alike"): MACHINE,
    ("worse", "else", "alike"): MEASUREMENT,
}
TABLE = AGREES | BETTER | WORSE
WORSE_14, WORSE_48, BETTER_22 = math.log(1.1411), math.log(1.4809), math.log(0.7813)

deviation = st.floats(allow_nan=True, allow_infinity=True)
near = st.floats(-0.5, 0.5)
maybe = st.none() | deviation | near


@pytest.mark.parametrize(("row", "finding"), TABLE.items())
def test_every_row_of_the_table(row, finding):
    assert decide(*row) == finding


def test_the_table_has_a_row_for_everything():
    assert set(TABLE) == set(
        product(get_args(CandidateDeviation), get_args(BaselineEvidence), get_args(ReferenceEvidence))
    )


@given(candidate=deviation | near, baseline=maybe, reference=maybe)
def test_any_figures_end_in_a_row_and_no_difference_ever_passes(candidate, baseline, reference):
    attribution = assess_evidence(Evidence(candidate, baseline, reference))
    row = (
        classify_candidate(candidate),
        classify_baseline(candidate, baseline),
        classify_reference(candidate, reference),
    )
    assert attribution == TABLE[row]
    assert (
        (attribution.verdict == "pass")
        == (abs(candidate) <= math.log1p(MAX_DEVIATION))
        == (attribution.attributed_to is None)
    )
    assert (attribution.verdict == "fail") == (attribution.attributed_to == "candidate")


@given(
    candidate=st.floats(0.14, 50), baseline=st.none() | st.floats(-50, 0.05), reference=st.none() | st.floats(-50, 0.05)
)
def test_a_damaged_candidate_fails_unless_something_else_is_worse_than_recorded_as_well(candidate, baseline, reference):
    assert assess_evidence(Evidence(candidate, baseline, reference)) == CANDIDATE


@given(candidate=st.floats(0.06, 50), baseline=st.floats(0.001, 50))
def test_a_baseline_excuses_no_more_than_it_suffers_itself(candidate, baseline):
    alike = candidate <= MAX_EXPLAINED * baseline and baseline <= MAX_EXCESS * candidate
    excused = baseline > math.log1p(MAX_DEVIATION) and alike
    assert assess_evidence(Evidence(candidate, baseline)) == (MACHINE if excused else CANDIDATE)


@pytest.mark.parametrize("baseline", [math.nan, math.inf, 5.0])
def test_a_baseline_that_is_broken_itself_excuses_no_candidate(baseline):
    assert assess_evidence(Evidence(0.06, baseline)) == CANDIDATE
    assert assess_evidence(Evidence(math.nan, math.nan)) == MACHINE, "both alike"


@given(candidate=st.floats(-50, -0.06), baseline=maybe, reference=maybe)
def test_nothing_that_is_served_better_than_recorded_is_the_candidates_fault(candidate, baseline, reference):
    assert assess_evidence(Evidence(candidate, baseline, reference)) in (MEASUREMENT, MACHINE)


@pytest.mark.parametrize(
    ("evidence", "finding"),
    [
        (Evidence(WORSE_14), CANDIDATE),
        (Evidence(WORSE_48), CANDIDATE),
        (Evidence(WORSE_14, baseline=0.003, reference=0.02), CANDIDATE),
        (Evidence(WORSE_48, baseline=0.003, reference=-0.02), CANDIDATE),
        (Evidence(WORSE_48, baseline=WORSE_14, reference=0.0), CANDIDATE),
        (Evidence(WORSE_48, baseline=WORSE_48), MACHINE),
        (Evidence(BETTER_22), MEASUREMENT),
        (Evidence(BETTER_22, baseline=-0.002, reference=BETTER_22), MEASUREMENT),
        (Evidence(BETTER_22, baseline=BETTER_22), MACHINE),
        (Evidence(BETTER_22, baseline=WORSE_48), MEASUREMENT),
        (Evidence(WORSE_14, baseline=BETTER_22), CANDIDATE),
        (Evidence(WORSE_14, baseline=0.0, reference=WORSE_14), MEASUREMENT),
        (Evidence(math.nan), CANDIDATE),
        (Evidence(math.nan, baseline=0.0), CANDIDATE),
        (Evidence(math.nan, baseline=math.nan), MACHINE),
        (Evidence(0.0, baseline=math.nan), PASS),
    ],
)
def test_cases_that_were_seen_or_feared(evidence, finding):
    assert assess_evidence(evidence) == finding
