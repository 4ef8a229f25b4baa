"""Which examples hypothesis draws: the same ones in each run of the tests, others in a soak."""

from hypothesis import settings

from tests.kit.soak import TIMES


def test_a_soak_draws_other_examples_than_a_run_of_the_tests():
    assert settings.get_profile("fast").derandomize
    assert not settings.get_profile("soak").derandomize


def test_the_profile_of_the_run_is_in_effect():
    assert settings().derandomize is (TIMES <= 1)
