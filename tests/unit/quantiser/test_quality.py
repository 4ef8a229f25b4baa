"""The verdict on a variant's quality: pass, fail or inconclusive, with the numbers compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import Quality
from contracts.policy import QualityGate
from services.quantiser.domain import assess_quality, spread_windows, windows_needed


def quality(**changes) -> Quality:
    figures = {
        "perplexity_ratio": 1.013,
        "mean_kl": 0.0135,
        "p99_kl": 0.07,
        "top1_agreement_ratio": 0.94,
        "tokens": 4088,
    }
    return Quality(**(figures | changes))


def test_within_both_limits_passes_and_says_the_numbers():
    assessment = assess_quality(quality(), QualityGate(max_perplexity_ratio=1.02, max_mean_kl=0.05))
    assert assessment.verdict == "pass"
    assert "1.0130 with a limit of 1.0200 on 4088 tokens" in assessment.reason


@pytest.mark.parametrize(
    ("gate", "named"),
    [
        (QualityGate(max_perplexity_ratio=1.01), "perplexity ratio 1.0130"),
        (QualityGate(max_mean_kl=0.01), "mean KL 0.0135"),
        (QualityGate(max_perplexity_ratio=1.02, max_mean_kl=0.01), "mean KL 0.0135"),
    ],
)
def test_beyond_a_limit_fails_and_names_it(gate, named):
    assessment = assess_quality(quality(), gate)
    assert assessment.verdict == "fail"
    assert named in assessment.reason


@pytest.mark.parametrize("figures", [{}, {"perplexity_ratio": 9.0}])
def test_little_evidence_is_inconclusive_whatever_it_says(figures):
    assessment = assess_quality(quality(tokens=100, **figures), QualityGate(max_perplexity_ratio=1.02))
    assert assessment.verdict == "inconclusive"
    assert "100" in assessment.reason


@pytest.mark.parametrize("gate", [None, QualityGate()])
def test_no_gate_asks_for_nothing(gate):
    assert assess_quality(quality(perplexity_ratio=9.0), gate).verdict == "pass"


def test_identical_files_need_no_measurement():
    gate = QualityGate(max_perplexity_ratio=1.0, max_mean_kl=0.0)
    assert assess_quality(quality(tokens=0), gate, identical=True).verdict == "pass"
    assert assess_quality(quality(tokens=0), gate).verdict == "inconclusive"


@given(st.floats(0.5, 3.0), st.floats(0.0, 2.0), st.floats(1.0, 3.0), st.floats(0.0, 2.0))
def test_passes_exactly_when_no_limit_is_exceeded(ratio, kl, max_ratio, max_kl):
    assessment = assess_quality(
        quality(perplexity_ratio=ratio, mean_kl=kl), QualityGate(max_perplexity_ratio=max_ratio, max_mean_kl=max_kl)
    )
    assert (assessment.verdict == "pass") == (ratio <= max_ratio and kl <= max_kl)


def test_own_evaluation_set_is_judged_too():
    gate = QualityGate(max_perplexity_ratio=1.05)
    assessment = assess_quality(quality(), gate, own=quality(perplexity_ratio=1.2, tokens=2044))
    assert assessment.verdict == "fail"
    assert "perplexity ratio 1.2000 with a limit of 1.0500 on 2044 tokens of its own set" in assessment.reason
    assert assess_quality(quality(), gate, own=quality(tokens=2044)).verdict == "pass"


def test_small_own_set_decides_nothing_and_that_is_said():
    own = quality(perplexity_ratio=9.0, tokens=1023)
    assessment = assess_quality(quality(), QualityGate(max_perplexity_ratio=1.05), own=own)
    assert assessment.verdict == "pass"
    assert assessment.reason.endswith("Its own set of 1023 tokens is too small for a verdict, which needs 1024.")


@given(st.integers(2, 600), st.integers(0, 4000))
def test_a_set_of_enough_tokens_is_always_judged(length, tokens):
    """However long the windows are: what a set's windows predict reaches what a verdict needs where the set does."""
    windows = spread_windows(range(tokens), length=length, count=windows_needed(length), with_rest=True)
    predicted = sum(len(window) - 1 for window in windows)
    lost = -(-tokens // length)  # each window predicts all of its tokens but the first
    assert predicted >= min(1024, tokens - lost)
