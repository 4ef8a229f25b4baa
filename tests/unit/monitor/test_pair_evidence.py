"""What a pair shows of each of its sides."""

import pytest

from contracts.facts import MirroredPair, PairCounts
from services.monitor.domain.observation import count_pair, outcomes_of_pair
from testbed import factories as f

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
SLOW = f.trigger(name="slow", metric="ttft_ms", threshold=800.0)


def pair(served=None, mirrored=None):
    plain = {"drill": None, "error": None, "canary": False}
    return MirroredPair(
        served=f.inference(target=f.target(7), **plain | (served or {})),
        mirrored=f.inference(target=f.target(6), **plain | (mirrored or {})),
    )


def test_pairs_are_counted_by_what_they_show_of_each_side():
    counts = None
    for target, other in ((True, True), (False, False), (False, False), (True, False), (False, True), (True, False)):
        counts = count_pair(counts, target=target, other=other)
    assert counts == PairCounts(both=1, neither=2, only_target=2, only_other=1)


@pytest.mark.parametrize(
    ("served", "mirrored", "outcomes"),
    [
        ({}, {}, (False, False)),
        ({"error": "engine_failed", "caused_by": "target"}, {}, (True, False)),
        (
            {"error": "engine_failed", "caused_by": "target"},
            {"error": "engine_failed", "caused_by": "target"},
            (True,) * 2,
        ),
        ({}, {"error": "deadline_exceeded", "caused_by": "infrastructure"}, None),
        ({"finish_reason": "cancelled", "caused_by": "caller"}, {}, None),
    ],
)
def test_what_a_pair_shows_of_errors(served, mirrored, outcomes):
    assert outcomes_of_pair(ERRORS, pair(served, mirrored)) == outcomes


def test_the_time_in_the_queue_is_no_difference_of_the_versions():
    """A flood of long prompts makes the active version's queue long, and that of the version behind not."""
    waited = pair({"ttft_ms": 5000.0, "queue_ms": 4900.0}, {"ttft_ms": 110.0, "queue_ms": 0.0})
    slow = pair({"ttft_ms": 5000.0, "queue_ms": 10.0}, {"ttft_ms": 110.0, "queue_ms": 0.0})
    assert outcomes_of_pair(SLOW, waited) == (False, False)
    assert outcomes_of_pair(SLOW, slow) == (True, False)
