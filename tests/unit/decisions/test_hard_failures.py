"""A target answers nothing after enough blocks in a row in which every request failed; equal bodies count once."""

import pytest

from decisions.evidence.hard_failures import Failures, assess_failures, count_closed, keep_endpoints, note_failures
from decisions.evidence.observation import REPEATS_KEPT, without_repeats
from testbed import factories as f
from tests.unit.monitor import factories as m


def answers_nothing(seen):
    """Return whether it does after blocks with so many requests and failures."""
    failures = Failures()
    for number, (requests, failed) in enumerate(seen):
        records = [(m.failed if index < failed else m.record)(2.0 * number) for index in range(requests)]
        failures = note_failures(failures, records, records)
    return assess_failures(count_closed(failures, f.after(60))) is not None


@pytest.mark.parametrize(
    ("seen", "nothing"),
    [
        ([(3, 3)] * 3, True),
        ([(4, 4)] * 2, False),  # too short
        ([(2, 2)] * 3, False),  # too few
        ([(3, 3), (0, 0), (3, 3), (3, 3)], True),
        ([(3, 3), (3, 3), (3, 2), (3, 3)], False),
    ],
)
def test_three_blocks_and_eight_requests(seen, nothing):
    assert answers_nothing(seen) is nothing


def test_what_failed_in_one_moment_counts_only_once_the_block_is_over():
    records = [m.failed(2.0 * number) for number in range(3) for _ in range(3)]
    failures = note_failures(Failures(), records, records)
    assert assess_failures(count_closed(failures, f.after(6.9))) is None
    assert assess_failures(count_closed(failures, f.after(7.0))) is not None
    answered = note_failures(failures, [m.record(6.5)], [m.record(6.5)])
    assert assess_failures(count_closed(answered, f.after(7.0))) is None, "it answered, in a block that is not over"


@pytest.mark.parametrize(
    ("how", "message"),
    [({"engine_died": "meanwhile"}, "last replica is reported dead"), ({"error": "not_loaded"}, "loaded nowhere")],
)
def test_what_is_reported_late_of_before_the_last_answer_is_over(how, message):
    endpoint = m.record(0).endpoint
    failed, answered = m.failed(10, **how), m.record(60)
    (found,) = {assess_failures(note_failures(Failures(), [failed], []), [endpoint])}
    assert found is not None
    assert message in found.message
    for order in ([answered, failed], [failed, answered]):
        assert assess_failures(note_failures(Failures(), order, []), [endpoint]) is None
    again = note_failures(Failures(), [answered, m.failed(70, **how)], [])
    assert assess_failures(again, [endpoint]) is not None


def test_an_engine_that_died_counts_no_more_once_the_target_has_left_its_endpoint():
    endpoint = m.record(0).endpoint
    failures = note_failures(Failures(), [m.failed(10, engine_died="meanwhile")], [])
    assert assess_failures(keep_endpoints(failures, [endpoint]), [endpoint]) is not None
    moved = keep_endpoints(failures, ["b:8001"])
    assert assess_failures(keep_endpoints(moved, [endpoint]), [endpoint]) is None


def test_a_body_that_fails_again_counts_once_a_minute_for_each_key():
    first, again, other = (m.failed(at, body="5f2b", caller=key) for at, key in ((0, "a"), (30, "a"), (31, "b")))
    later, good = m.failed(70, body="5f2b", caller="a"), m.record(71)
    drilled = m.failed(72, body="5f2b", caller="a", drill="d-1")
    known, counted = without_repeats({}, [first, again, other])
    assert counted == (first, other)
    known, counted = without_repeats(known, [later, good, drilled, later])
    assert counted == (later, good, drilled)
    many = [m.failed(80, body=f"{number:04}") for number in range(2 * REPEATS_KEPT)]
    assert len(without_repeats(known, many)[0]) == REPEATS_KEPT
