"""A release on three NATS servers: it ends once, although a leader steps down, is killed and is cut off on the way."""

from collections import Counter

import pytest

from contracts import facts as f
from contracts.services import EVENTS
from testbed.servers import connection
from tests.integration.nats_cluster import cluster, disturbed, js
from tests.integration.registry_process import base, checkpoint, log, registry, run_to_end, run_to_turn, store
from tests.integration.registry_process import publish as announce

__all__ = ["base", "checkpoint", "cluster", "js", "log", "store"]  # fixtures
pytestmark = pytest.mark.full
RELEASE_S = 60.0


@pytest.fixture
def settings(cluster, s3_server, tmp_path):
    """Settings of a service that knows all three servers, and the store."""
    return connection(cluster, s3_server, tmp_path)


async def test_a_release_ends_once_though_a_leader_steps_down_dies_and_is_cut_off(
    cluster, js, settings, checkpoint, log
):
    async with registry(js, settings):
        async with disturbed(cluster, "steps down", EVENTS):
            await announce(js, checkpoint(), "e1")
            opened = (await log.of(f.ReleaseOpened, timeout_s=RELEASE_S))[0].data
        async with disturbed(cluster, "is killed", "KV_releases"):
            await run_to_turn(js, opened.release_id, 1)
            await log.of(f.StageRequested, 2, timeout_s=RELEASE_S)
        async with disturbed(cluster, "is cut off", EVENTS):
            await run_to_end(js, opened.release_id, 1, epoch=1)
            (finished,) = await log.of(f.ReleaseFinished, timeout_s=RELEASE_S)
        await log.settled(f.DeploymentChanged, timeout_s=RELEASE_S)
    assert finished.data.outcome == "promoted"
    stored = Counter(event.type for event in await log.all())
    assert [stored[kind.TYPE] for kind in (f.ReleaseOpened, f.VersionRegistered, f.ReleaseFinished)] == [1, 1, 1]
    assert stored[f.WorkAbandoned.TYPE] == 0
