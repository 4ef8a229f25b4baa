"""The pure parts of delivery: how long to wait, and what may stand in a header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.codes import ADVICE
from shared.errors import Permanent, Transient
from shared.messaging.delivery import (
    ITEM_LIMIT_S,
    OUTAGE_LIMIT_S,
    OUTAGES,
    _header_safe,
    backoff_s,
    given_up,
    retried_s,
)


def test_backoff_rises_and_stays_bounded():
    waits = [backoff_s(deliveries) for deliveries in range(1, 200)]
    assert waits == sorted(waits)
    assert waits[0] < 1.0
    assert waits[-1] == 30.0
    assert backoff_s(0) == backoff_s(-3) == waits[0]


@given(st.text(alphabet=st.characters(codec=None), max_size=3000))
def test_headers_are_one_line_of_plain_text(text):
    safe = _header_safe(text)
    assert len(safe) <= 1000
    assert all(" " <= letter <= "~" for letter in safe)
    assert safe == safe.strip()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain words", "plain words"),
        ("two\r\nlines: forged", "two lines: forged"),
        ("für Größe", "f?r Gr??e"),
        ("a\0b\x1bc\x7f", "a?b?c?"),
        ("lone \ud800", "lone ?"),
    ],
)
def test_examples(text, safe):
    assert _header_safe(text) == safe


# -- how long the same failure is tried again -------------------------------------------------------------------------


TRANSIENT_CODES = sorted(ADVICE)


@given(st.integers(min_value=1, max_value=40_000))
def test_the_time_between_tries_is_what_the_backoff_waited(deliveries):
    assert retried_s(deliveries) == pytest.approx(sum(backoff_s(number) for number in range(1, deliveries)))
    assert retried_s(deliveries + 1) > retried_s(deliveries)


@given(st.sampled_from(TRANSIENT_CODES), st.integers(min_value=1, max_value=100_000))
def test_a_failure_of_one_item_ends_after_hours_one_of_everything_after_days(code, deliveries):
    limit = OUTAGE_LIMIT_S if code in OUTAGES else ITEM_LIMIT_S
    ended = given_up(Transient(code, "No."), deliveries)
    assert (ended is not None) == (retried_s(deliveries) >= limit)
    if ended is not None:
        assert isinstance(ended, Permanent)
        assert ended.code == "retries_exhausted"
        assert code in ended.reason
        assert "No." in ended.reason


def test_an_outage_of_a_weekend_ends_nothing():
    weekend = next(number for number in range(1, 50_000) if retried_s(number) > 3 * 86_400)
    assert all(given_up(Transient(code, "No."), weekend) is None for code in OUTAGES)
    assert given_up(Transient("engine_dead", "No."), weekend)


def test_a_message_that_waited_long_but_was_not_tried_is_not_given_up():
    """Neither a backlog nor a clock that jumps counts: only tries do."""
    assert given_up(Transient("engine_dead", "No."), 1) is None
