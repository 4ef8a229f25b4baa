"""Stories of fixed seeds: whatever their fate is, what must hold holds; and the same seed is the same story."""

import subprocess
import sys

import pytest

from tests.world.story import tell

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_must_hold_holds_whatever_goes_wrong(seed):
    told = tell(seed)
    assert told.violations == (), str(told)


def test_a_seed_is_the_same_story_in_another_process():
    script = "from tests.world.story import tell; print(tell(7).digest)"
    others = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(number)},
        )
        for number in (1, 2)
    ]
    assert {tell(7).digest} == {each.stdout.strip() for each in others}
