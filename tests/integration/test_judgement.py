"""A version that an alert suspended, by gateway, monitor and rollback-controller: confirmed, or cleared, by its shadow."""

import asyncio
import contextlib

import openai
import pytest

from contracts import facts as f
from contracts.routes import Route
from testbed import factories as k
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from testbed.services import running_service, wait_for_fact
from tests.integration import monitor_process as of_monitor
from tests.integration.gateway_process import put_route
from tests.integration.rollback_process import MODEL, alert, learn, publish, route_of, target
from tests.integration.rollback_process import MODULE as CONTROLLER
from tests.integration.rollback_process import QUICK as QUICK_CONTROLLER

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
FEW = k.trigger(name="errors", metric="error_ratio", threshold=0.05, alpha=0.02, min_requests=10)
RESCUES = {"rescues_per_minute": 6_000, "rescues_per_caller": 6_000}
"""The one caller sends hundreds of odd requests before the detector is sure."""
MANY = FEW.model_copy(update={"threshold": 0.4})
"""What it allows clears a version within some twenty requests."""


@pytest.fixture(scope="module")
def toy(triton):
    """Version 1 answers all; version 2 fails what is odd."""
    return {1: load_toy(triton, MODEL, 1), 2: load_toy(triton, MODEL, 2, fail_text="odd")}


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path), first_token_s=10, **RESCUES)) as process:
        yield process


@pytest.fixture
def services(js, settings, bus_settings, gateway):
    with (
        running_service(of_monitor.MODULE, settings, **of_monitor.QUICK),
        running_service(CONTROLLER, bus_settings, **QUICK_CONTROLLER),
    ):
        yield


@contextlib.asynccontextmanager
async def callers(gateway, *, odd_in=0):
    """Send requests all the time, of which one in `odd_in` is odd; yield what callers got of them."""
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        failed = []

        async def ask(number):
            prompt = f"odd {number}" if odd_in and number % odd_in == 0 else f"even {number}"
            try:
                await client.completions.create(model=MODEL, prompt=prompt, max_tokens=3)
            except openai.APIError as error:
                failed.append(error)

        async def keep_asking():
            for number in range(100_000):
                await ask(number)
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(keep_asking())
        try:
            yield failed
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def serve(js, gateway, toy, trigger, **declared):
    await learn(js, 1, 2, triggers=(trigger,), **declared)
    route = Route(model=MODEL, epoch=7, active=toy[2], previous=toy[1], cause_id="before")
    await put_route(js, gateway, route)
    await of_monitor.publish(
        js, f.DeploymentChanged(route=route, cause="promote", at=of_monitor.CLOCK.now()), model=MODEL
    )
    await of_monitor.watched(js, target(2), model=MODEL)


async def test_a_version_that_fails_one_request_in_three_is_left_and_confirmed(js, gateway, toy, services):
    await serve(js, gateway, toy, FEW)
    async with callers(gateway, odd_in=3) as failed:
        (judged,) = await wait_for_fact(js, f.SuspensionJudged, timeout_s=120)
        await wait_for_fact(js, f.DeploymentChanged, count=3)
    assert (judged.data.verdict, judged.data.target) == ("confirmed", target(2))
    assert judged.data.pairs.only_target > 3 * judged.data.pairs.only_other
    route = await route_of(js)
    assert (route.active.target, route.suspended, route.quarantined) == (target(1), (), (target(2),))
    assert failed == [], "what version 2 failed, version 1 answered"


async def test_a_version_that_is_no_worse_is_cleared_and_returns(js, gateway, toy, services):
    await serve(js, gateway, toy, MANY)
    async with callers(gateway):
        await publish(js, alert(trigger="errors"))
        (judged,) = await wait_for_fact(js, f.SuspensionJudged, timeout_s=120)
        await wait_for_fact(js, f.DeploymentChanged, count=3)
    route = await route_of(js)
    (entry,) = route.suspended
    assert (entry.verdict, entry.returned_by, route.active.target) == ("cleared", judged.id, target(1))
