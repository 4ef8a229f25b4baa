"""What tokens, machine time and held memory cost."""

import pytest

from decisions.releases.prices import held_memory, machine_time, million_tokens


def test_a_million_tokens_at_a_thousand_a_second_take_a_thousand_seconds():
    assert million_tokens(3.6, 1000.0) == pytest.approx(1.0)
    assert million_tokens(2.5, 250.0) == pytest.approx(2.5 * 4000 / 3600)
    assert million_tokens(2.5, 0.0) is None


def test_machine_time_and_held_memory_are_shares_of_an_hour():
    assert machine_time(2.4, 900.0) == pytest.approx(0.6)
    assert held_memory(2.4, 6 * 10**9, 24 * 10**9) == pytest.approx(0.6)
    assert held_memory(2.4, 1, 0) is None
