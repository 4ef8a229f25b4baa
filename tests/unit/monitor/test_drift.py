"""Holm holds, and no drift is not called drift."""

import random

import pytest

from services.monitor.domain import drift


def test_distance_and_p_value_by_hand():
    assert drift.compare_samples([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx((1.0, 0.1))


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
    assert column.p_value < 0.001
    assert not column.drifted
