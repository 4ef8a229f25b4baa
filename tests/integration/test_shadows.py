"""A shadow on a real bus: what failed in it is quarantined once."""

import asyncio
from functools import partial

from contracts import facts as f
from contracts.routes import Route, ShadowShare
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.services import running_service, stored_facts, wait_for_fact
from tests.integration import monitor_process as of_monitor


async def test_a_candidate_that_failed_in_its_shadow_or_lost_its_release_is_quarantined_once(js, bus_settings):
    served = {version: k.served(version, "bf16", "toy") for version in (1, 2, 3)}
    shadow = ShadowShare(served=served[3], share_ratio=0.3)
    route = Route(model="toy", epoch=7, active=served[2], previous=served[1], shadow=shadow, cause_id="before")
    await Bucket(js, "routes", Route).create("toy", route)
    publish = partial(of_monitor.publish, js, correlation="r-3")
    failed = f.ShadowAssessed(target=served[3].target, share_ratio=0.3, requests=90, verdict="fail", reason="worse")
    finished = f.ReleaseFinished(release_id="r-3", model="toy", version=3, outcome="aborted", reason="failed shadow")
    settings = {"ROLLBACK_CONTROLLER_SWEEP_S": "0.3", "ROLLBACK_CONTROLLER_VERIFY_S": "2"}
    with running_service("services.rollback_controller.main", bus_settings, **settings):
        await asyncio.gather(publish(failed, model="toy"), publish(finished, model="toy"))
        (changed,) = await wait_for_fact(js, f.DeploymentChanged)
        await wait_for_fact(js, f.RollbackCompleted)
    assert (changed.data.cause, changed.data.route.epoch) == ("abort", 8)
    ended = (await Bucket(js, "routes", Route).get("toy")).value
    assert (ended.active, ended.shadowed, ended.quarantined) == (served[2], None, (served[3].target,))
    assert len(await stored_facts(js, f.DeploymentChanged)) == 1
