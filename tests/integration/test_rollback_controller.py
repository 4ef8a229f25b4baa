"""The rollback-controller as a process on a real bus, before a real Triton: traffic moves once."""

import asyncio
from datetime import timedelta

import nats.errors
import pytest

from contracts import facts as f
from contracts.drills import Drill
from contracts.services import DEADLETTER, DEADLETTER_PREFIX, SERVICES, durable_name, stream_of
from deploy.local.state import ADMIN
from shared.storage.kv import Bucket
from testbed.gateway import load_toy
from testbed.servers import bus_variables, running
from testbed.services import running_service, stored_facts, wait_for_fact
from testbed.triton import TritonServer
from tests.integration.rollback_process import (
    CLOCK,
    MODEL,
    MODULE,
    QUICK,
    alert,
    learn,
    publish,
    put_route,
    requests,
    route_of,
    target,
)
from tests.kit.command import run_command

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as server:
        yield server


@pytest.fixture(scope="module")
def toy(triton):
    return {version: load_toy(triton, MODEL, version) for version in (1, 2)}


@pytest.fixture
def controller(js, bus_settings):
    with running_service(MODULE, bus_settings, **QUICK) as process:
        yield process


def suspended(route):
    return tuple(entry.served.target for entry in route.suspended)


async def handled(js) -> None:
    """Wait until the controller has dealt with everything that was said so far."""
    async with asyncio.timeout(60):
        for fact, environment in SERVICES["rollback-controller"].reads:
            stream, durable = stream_of(fact), durable_name("rollback-controller", fact, environment)
            while (info := await js.consumer_info(stream, durable)).num_pending or info.num_ack_pending:
                await asyncio.sleep(0.05)


async def test_an_alert_moves_traffic_back_and_live_requests_verify_it(js, toy, controller):
    await learn(js, 1, 2)
    await put_route(js, toy)
    cause = await publish(js, alert())
    (changed,) = await wait_for_fact(js, f.DeploymentChanged)
    route = await route_of(js)
    assert changed.data.route == route
    assert (changed.data.cause, changed.causationid) == ("rollback", cause)
    assert (route.active.target, route.previous, route.epoch) == (target(1), None, 8)
    assert (suspended(route), route.quarantined) == ((target(2),), ())
    await publish(js, requests(1))
    (done,) = await wait_for_fact(js, f.RollbackCompleted)
    assert (done.data.verdict, done.data.failed, done.data.to, done.data.mode) == (
        "pass",
        target(2),
        target(1),
        "automatic",
    )
    moments = done.data.timeline
    assert (
        moments.first_bad_at <= moments.detected_at <= moments.decided_at <= moments.switched_at <= moments.verified_at
    )
    (started,) = await stored_facts(js, f.RollbackStarted)
    assert started.data.rollback_id == done.data.rollback_id
    await publish(js, alert(kind=f.AlertUpdated))
    await handled(js)
    assert (await route_of(js)) == route


async def test_an_alert_of_a_trigger_with_another_services_key_moves_nothing_and_is_a_dead_letter(
    js, nats_server, toy, controller
):
    await learn(js, 1, 2)
    before = await put_route(js, toy)
    registry = await nats_server.connect("registry")
    try:
        theirs = registry.jetstream()
        await publish(theirs, alert(), sender="registry")
        with pytest.raises(nats.errors.Error):
            await theirs.publish(f"{f.AlertRaised.TYPE}.{MODEL}.monitor", b"{}", timeout=1)
    finally:
        await registry.close()
    await handled(js)
    letter = await js.get_last_msg(DEADLETTER, f"{DEADLETTER_PREFIX}.{MODEL}.rollback-controller")
    assert letter.headers["Slipway-Code"] == "sender_mismatch"
    assert await route_of(js) == before
    assert await stored_facts(js, f.RollbackStarted) == []


async def test_a_drill_becomes_a_record_that_ends_by_itself_and_a_bad_one_is_answered(js, toy, controller):
    await learn(js, 2)
    about = {"reason": "to see", "target": target(2), "share_ratio": 0.5, "environment": "production"}
    good = f.DrillOrdered(fault=f.DrillFault(delay_ms=800), expires_at=CLOCK.now() + timedelta(seconds=60), **about)
    await publish(js, good, event_id="drill-1")
    bucket = Bucket(js, "drills", Drill)
    async with asyncio.timeout(30):
        while (entry := await bucket.get(f"production.{MODEL}")) is None:
            await asyncio.sleep(0.05)
    assert (entry.value.drill_id, entry.value.fault, entry.value.share_ratio) == ("drill-1", good.fault, 0.5)
    for bad in (
        good.model_copy(update={"expires_at": CLOCK.now() + timedelta(hours=3)}),
        good.model_copy(update={"fault": f.DrillFault()}),
    ):
        await publish(js, bad)
    refused = await wait_for_fact(js, f.OrderRefused, count=2)
    assert {event.data.code for event in refused} == {"malformed_event"}
    assert (await bucket.get(f"production.{MODEL}")).value == entry.value


@pytest.mark.usefixtures("controller")
async def test_the_command_that_orders_a_rollback_shows_its_steps_and_ends_with_it(js, toy, bus_settings):
    await learn(js, 1, 2)
    await put_route(js, toy)
    variables = bus_variables(bus_settings, ADMIN)
    status, out, err = await asyncio.to_thread(run_command, variables, "rollback", MODEL, "--reason", "rude answers")
    assert (status, err) == (0, "")
    assert "rollback started" in out
    assert f"{target(2)} -> {target(1)}" in out
    assert (await route_of(js)).active.target == target(1)
