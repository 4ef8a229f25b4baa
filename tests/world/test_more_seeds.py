"""More fixed stories, in a file of their own so that another worker runs them."""

import pytest

from tests.world.story import tell


@pytest.mark.parametrize("seed", range(37, 90))
def test_what_must_hold_holds_whatever_goes_wrong(seed):
    told = tell(seed)
    assert told.violations == (), str(told)
