"""The world finds defects: with each of these a story that is well without it goes wrong."""

import pytest

from tests.world.defects import DEFECTS, put_back
from tests.world.story import tell

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("defect", "seed", "faults"), DEFECTS)
def test_a_defect_is_found(defect, seed, faults):
    with put_back(defect):
        told = tell(seed, faults)
    assert told.violations != ()
