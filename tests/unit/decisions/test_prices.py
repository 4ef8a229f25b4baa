"""What tokens cost."""

import pytest

from decisions.releases.prices import million_tokens


def test_a_million_tokens_at_a_thousand_a_second_take_a_thousand_seconds():
    assert million_tokens(3.6, 1000.0) == pytest.approx(1.0)
    assert million_tokens(2.5, 250.0) == pytest.approx(2.5 * 4000 / 3600)
    assert million_tokens(2.5, 0.0) is None
