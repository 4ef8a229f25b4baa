"""The world finds defects: with each of these a story that is well without it goes wrong."""

import pytest

from tests.world.defects import DEFECTS, put_back
from tests.world.story import tell


@pytest.mark.parametrize(
    ("seed", "defect"), [(seed, defect) for seed, defects in DEFECTS.items() for defect in defects]
)
def test_a_defect_is_found(seed, defect):
    with put_back(defect):
        told = tell(seed)
    assert told.violations != ()
