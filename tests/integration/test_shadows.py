"""Shadows on a real bus: killed in between, monitor and rollback-controller come to the same end, once."""

import asyncio
import uuid
from functools import partial

import pytest

from contracts import facts as f
from contracts.policy import Canary, Shadow
from contracts.routes import Route, ShadowShare
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.services import running_service, stored_facts, wait_for_fact
from tests.integration import monitor_process as of_monitor

SHADOW = Shadow(share_ratio=0.5, duration_s=1.0, min_requests=60)
CANDIDATE = k.target(8)


async def begin_shadow(js):
    policy = k.policy(triggers=of_monitor.TRIGGERS, canary=Canary(steps=(0.3,), beta=0.5), shadow=SHADOW)
    for version in (7, 8):
        opened = k.fact(f.ReleaseOpened, version=version, release_id=f"r-{version}", policy=policy)
        await of_monitor.publish(js, opened, correlation=f"r-{version}")
    about = {"active": k.served(7), "canary": None, "previous": None, "history": (), "quarantined": (), "epoch": 1}
    route = k.route(shadow=ShadowShare(served=k.served(8), share_ratio=0.5), **about)
    changed = f.DeploymentChanged(route=route, cause="shadow", at=of_monitor.CLOCK.now())
    await of_monitor.publish(js, changed, correlation="r-8")
    await of_monitor.watched(js, CANDIDATE)


def pairs(count, ago_s, **candidate):
    """Return a batch of pairs, one in two seconds, the last of which ended so many seconds ago."""
    compared = []
    for number in range(count):
        about = {"request_id": uuid.uuid4().hex, "caller": f"key-{number % 5}", "holder": f"key-{number % 5}"}
        about |= {"ago_s": ago_s + 2.0 * (count - 1 - number)}
        sides = of_monitor.record(**about), of_monitor.record(version=8, **about, **candidate)
        compared.append(f.MirroredPair(served=sides[0], mirrored=sides[1], shadow=True))
    return f.InferenceBatch(gateway="gateway-test", records=(), pairs=tuple(compared))


FAILS = {"error": "engine_failed", "caused_by": "target", "ttft_ms": None, "features": None}


@pytest.mark.parametrize(("changes", "verdict"), [({}, "pass"), (FAILS, "fail")])
@pytest.mark.parametrize("deadly", [("", 1), pytest.param(("monitor.after_cas", 4), marks=pytest.mark.full)])
async def test_a_monitor_that_is_killed_in_a_shadow_comes_to_the_same_verdict_once(
    js, settings, deadly, changes, verdict
):
    (failpoint, times), deaths = deadly, []
    with running_service(of_monitor.MODULE, settings, **of_monitor.QUICK, SLIPWAY_FAILPOINT=failpoint) as process:
        keeper = asyncio.create_task(of_monitor.keep_running(process, settings, failpoint, times, deaths))
        try:
            await begin_shadow(js)
            await of_monitor.publish(js, pairs(35, 75.0, **changes), event_id="one")
            await of_monitor.settled_watch(js, "one")
            if not failpoint:
                process.kill()
            await of_monitor.publish(js, pairs(35, 5.0, **changes), event_id="two")
            async with asyncio.timeout(120):  # each death costs the 12 s after which its message is delivered again
                while not (given := await verdicts(js)) or len(deaths) < times:
                    await asyncio.sleep(0.1)
        finally:
            keeper.cancel()
    assert deaths == [-9] * times
    assert [event.data.verdict for event in given] == [verdict]
    assert (given[0].correlationid, given[0].data.target) == ("r-8", CANDIDATE)
    assert given[0].data.requests in ((70,) if verdict == "pass" else (35, 70))
    ids = [event.id for event in await stored_facts(js, f.ShadowAssessed)]
    assert len(ids) == len(set(ids))
    for fact in (f.AlertRaised, f.WindowSummarised):
        assert await stored_facts(js, fact) == [], "no caller is harmed"


async def verdicts(js):
    """Return the verdicts of a shadow, without what was undecided."""
    return [event for event in await stored_facts(js, f.ShadowAssessed) if event.data.verdict != "inconclusive"]


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
