"""Fixed stories: whatever their fate is, what must hold holds; and the same seed is the same story."""

import subprocess
import sys

import pytest

from tests.world.fate import Fault
from tests.world.story import tell


def rolls_back(at_s):
    return Fault("person rolls back", at_s)


@pytest.mark.parametrize("seed", range(37))
def test_what_must_hold_holds_whatever_goes_wrong(seed):
    told = tell(seed)
    assert told.violations == (), str(told)


@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        pytest.param(78, [rolls_back(66.0)], id="an operator rolls back before servers get the next version"),
        pytest.param(78, [rolls_back(68.0)], id="an operator rolls back to servers that just got the next version"),
        pytest.param(1004, [rolls_back(121.9)], id="an operator rolls back while a newer version waits for its turn"),
        pytest.param(
            1033, [Fault("bucket lost", 40.0, "releases")], id="of two releases whose records are lost one waits"
        ),
        pytest.param(1010, None, id="a bad version is the first one, and becomes active as the last thing of all"),
        pytest.param(
            5096,
            [Fault("bucket lost", 29.3, "servers"), Fault("person cancels", 194.4), rolls_back(73.2)],
            id="the fleet's record is lost with a staging order in it, and an operator cancels the release",
        ),
        pytest.param(
            100599, [Fault("bucket lost", 54.1, "rollbacks")], id="the record of what to rehearse is lost meanwhile"
        ),
        pytest.param(100969, [], id="targets are staged before the log has the request to rehearse them"),
        pytest.param(
            2173,
            [Fault("clock jumps", 46.2, "monitor", -1933.7)],
            id="the monitor's clock is set back by more than an alert is valid",
        ),
        pytest.param(
            100916, [Fault("bucket lost", 98.1, "SLIPWAY_EVENTS")], id="the log is lost before the alert of a rehearsal"
        ),
    ],
)
def test_what_was_found_once_is_not_found_again(seed, faults):
    told = tell(seed, faults)
    assert told.violations == (), str(told)


def test_a_seed_is_the_same_story_in_another_process():
    script = "from tests.world.story import tell; print(hash('7'), tell(7).digest)"
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"}
    )
    other_hash, digest = other.stdout.split()
    assert digest == tell(7).digest
    assert other_hash != str(hash("7")), "sets and dictionaries have another order there"
