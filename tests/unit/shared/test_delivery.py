"""The pure parts of delivery: how long to wait, and what may stand in a header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.delivery import _header_safe, backoff_s


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
