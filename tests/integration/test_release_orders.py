"""Orders about a release on a real bus: pause and resume across a restart, early promotion, a refusal."""

import pytest

from contracts import facts as f
from contracts.policy import Canary
from contracts.services import ORDERS
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock
from tests.integration import registry_process as lifecycle
from tests.integration.registry_process import answer, registry, to_approval
from tests.kit import fakes_registry as k

store, base, checkpoint, log = lifecycle.store, lifecycle.base, lifecycle.checkpoint, lifecycle.log
"""The fixtures of a registry on a real bus and store."""


async def order(js, log, fact, event_id, release):
    event = k.event(fact, event_id, correlation=release, model=k.MODEL)
    await publish_event(js, event.model_copy(update={"time": SystemClock().now()}))
    await log.settled(type(fact), ORDERS)


async def test_a_paused_release_waits_across_a_restart_keeps_its_canary_and_goes_on(js, settings, checkpoint, log):
    async with registry(js, settings):
        release, digest = await to_approval(js, log, checkpoint, canary=Canary(steps=(0.1,), on_deadline="promote"))
        await order(js, log, f.ReleaseHeld(release_id=release, paused=True, reason="incident"), "h1", release)
        await order(js, log, f.ReleaseHeld(release_id=release, paused=True), "h2", release)
        await order(js, log, k.approval(digest, release), "a1", release)
    accepted = await log.of(f.OrderAccepted, 3)
    assert accepted[0].data.details == {
        "paused": True,
        "by": accepted[0].data.details["by"],
        "at": accepted[0].data.details["at"],
        "reason": "incident",
    }
    assert {event.data.order_id for event in accepted} == {"h1", "h2", "a1"}
    assert [event for event in await log.all() if isinstance(event.data, f.TrafficRequested)] == []
    async with registry(js, settings):
        await order(js, log, f.ReleaseHeld(release_id=release, paused=False), "h3", release)
        (first,) = await log.of(f.TrafficRequested)
        assert first.data.weight_ratio == 0.1
        chosen = first.data.target.target
        await answer(js, release, 1, k.changed(k.route(k.target("bf16", 0), chosen, epoch=4), "canary"))
        await log.settled(f.DeploymentChanged)
        await order(js, log, f.CanaryAdvanced(release_id=release, weight_ratio=0.5), "c0", release)
        await order(js, log, f.CanaryAdvanced(release_id=release, weight_ratio=0.1), "c1", release)
        assert (await log.of(f.TrafficRequested, 2))[1].data.weight_ratio == 1.0
        (refused,) = await log.of(f.OrderRefused)
        assert (refused.data.code, refused.data.order_id) == ("not_applicable", "c0")


@pytest.mark.parametrize("name", ["r-ffffffffffffffff-1", "../../no release"])
async def test_an_order_about_no_release_is_refused(js, settings, log, name):
    async with registry(js, settings):
        await order(js, log, f.ReleaseHeld(release_id=name, paused=True), "h1", "run 1")
        assert (await log.of(f.OrderRefused))[0].data.code == "not_applicable"
