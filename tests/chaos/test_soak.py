"""A minute of the soak: two of every service, killed at random through releases of three models."""

import pytest

from testbed.soak.progress import Progress
from testbed.soak.session import Plan, Session
from tests.kit.soak import SEED

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]


def test_every_release_ends_once_though_everything_is_killed_at_random(tmp_path):
    print(f"SLIPWAY_TEST_SEED={SEED}")
    progress = Progress(SEED)
    plan = Plan(models=3, minutes=1.0, every_s=2.0, rps=1.0, settle_s=400.0)
    verdict = Session(tmp_path, plan, progress, print).run()
    print(*verdict.notes, sep="\n")
    assert verdict.problems == []
    assert progress.kills >= 8
    assert {each.model for each in progress.announced if each.number in progress.published} == {
        "model-1",
        "model-2",
        "model-3",
    }
    assert progress.answers["200"] > 0
