"""Our Kolmogorov-Smirnov is scipy's, Holm holds, and no drift is not called drift."""

import random
import warnings

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from services.monitor.domain import drift

samples = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=60)


@given(samples, samples)
def test_statistic_and_p_value_are_scipys(sample, other):
    with warnings.catch_warnings(record=True) as gave_up:
        warnings.simplefilter("always")
        theirs = ks_2samp(sample, other, method="exact")
    ours = drift.ks_statistic(sample, other)
    assert ours == pytest.approx(theirs.statistic)
    assume(not gave_up)  # scipy then gives its approximation instead, and says so
    assert drift.ks_p_value(ours, len(sample), len(other)) == pytest.approx(theirs.pvalue, abs=1e-9)


def test_large_samples_are_close_to_scipys():
    draw = random.Random(1)
    sample, other = [draw.gauss(0, 1) for _ in range(2000)], [draw.gauss(0.05, 1) for _ in range(1500)]
    theirs = ks_2samp(sample, other, method="asymp")
    assert drift.ks_p_value(drift.ks_statistic(sample, other), 2000, 1500) == pytest.approx(theirs.pvalue, rel=0.1)


def test_holm_by_hand():
    assert drift.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert drift.holm([]) == []


def rows(seed, shift=1.0, count=300):
    draw = random.Random(seed)
    return {
        "prompt_chars": [float(round(draw.lognormvariate(5, 0.6) * shift)) for _ in range(count)],
        "repetition_ratio": [round(draw.random() ** 4, 1) for _ in range(count)],
    }


def test_no_drift_is_rarely_called_drift_and_drift_is_found():
    reference = rows(0)
    floors = drift.calibrate(reference, 300, seed=1)
    assert floors == drift.calibrate(reference, 300, seed=1)
    healthy = [drift.assess_drift(reference, rows(seed), floors=floors, alpha=0.05).drifted for seed in range(1, 61)]
    assert sum(map(bool, healthy)) <= 3
    (drifted,) = drift.assess_drift(reference, rows(99, shift=2.0), floors=floors).drifted
    assert drifted.column == "prompt_chars"
    assert drifted.statistic > drifted.floor


def test_what_is_significant_but_small_stays_below_the_floor():
    reference, current = {"a": list(range(4000))}, {"a": [value + 260 for value in range(4000)]}
    (column,) = drift.assess_drift(reference, current, floors={}, floor=0.1).columns
    assert column.adjusted_p_value < 0.001
    assert not column.drifted
