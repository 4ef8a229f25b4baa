"""No caller alone can raise an alert about production: requests through the gateway, their records into the monitor."""

import asyncio
import json
from datetime import timedelta

import pytest

from contracts import facts
from contracts.policy import Canary
from services.monitor.domain import monitoring as watching
from services.monitor.domain.monitoring import Cause, Rules
from services.monitor.domain.record import MonitorState
from shared.errors import Transient
from testbed import factories as f
from tests.unit.gateway.fakes import FakeEngine, StepClock
from tests.unit.gateway.world import World, only_active

SURROGATE = "\ud800"
TRIGGERS = (
    f.trigger(name="errors", metric="error_ratio", threshold=0.02),
    f.trigger(name="empties", metric="empty_ratio", threshold=0.02),
    f.trigger(name="late", metric="ttft_ms", threshold=400.0),
    f.trigger(name="long", metric="e2e_ms", threshold=5000.0),
)


async def post(world, body):
    """Send a body with its lone surrogates escaped, and return the status; 500 where the application fails."""
    try:
        return (await world.http.post("/v1/chat/completions", content=json.dumps(body).encode())).status_code
    except UnicodeEncodeError:
        return 500


def alerts_after(records):
    """Return the alerts that the monitor raises for two thousand good requests and then these records, one a second."""
    now = records[-1].scheduled_at if records else f.START
    policy = f.policy(triggers=TRIGGERS, canary=Canary(steps=(0.2,), min_requests=100))
    watch = watching.add_policy(
        MonitorState(model=f.MODEL, environment="production"), 7, "r-7", policy, Cause("p", now)
    )
    route = f.route(active=f.served(7), canary=None, previous=None, history=(), quarantined=(), epoch=1)
    watch = watching.follow_route(watch, route, Cause("route", now), Rules())
    good = [
        f.inference(
            request_id=f"good-{number}",
            target=f.target(7),
            scheduled_at=now,
            sent_at=now,
            ttft_ms=100.0,
            e2e_ms=400.0,
            error=None,
            drill=None,
            canary=False,
        )
        for number in range(2000)
    ]
    watch = watching.add_records(watch, good, Cause("good", now), Rules())
    times = [now + timedelta(seconds=4 + number) for number in range(len(records))]
    spread = [
        record.model_copy(update={"scheduled_at": at, "sent_at": at}) for record, at in zip(records, times, strict=True)
    ]
    end = now + timedelta(seconds=len(records) + 9)
    watch = watching.add_records(watch, spread, Cause("bad", end), Rules())
    return [alert for alert in watch.outbox if alert.type == facts.AlertRaised.TYPE]


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "user", "content": SURROGATE}]},
        {"stop": SURROGATE},
        {"user": SURROGATE},
    ],
)
async def test_seven_bodies_with_a_lone_surrogate_are_refused_and_say_nothing_about_the_target(changes):
    world = World(only_active())
    body = {"model": f.MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    statuses = {await post(world, {**body, **changes}) for _ in range(7)}
    assert alerts_after(world.records) == []
    assert statuses == {400}
    assert world.engine.calls == []


def test_the_monitor_does_raise_an_alert_when_the_target_fails():
    """The tests above could not fail without this."""
    failed = [
        f.inference(request_id=f"bad-{n}", target=f.target(7), error="engine_dead", features=None) for n in range(8)
    ]
    assert alerts_after(failed)


async def test_a_stop_that_leaves_no_text_is_no_empty_answer():
    world = World(only_active(), engine=FakeEngine(honours_stop=True))
    for _ in range(20):
        assert (await world.chat(stop=["w0"])).status_code == 200
    assert len(world.records) == 20
    assert alerts_after(world.records) == []


class Reconnecting(FakeEngine):
    """Needs 1.5 s on the world's clock to be connected again; `held` keeps it from it."""

    clock: StepClock
    held: asyncio.Event | None = None

    async def await_reconnect(self, endpoint):
        await super().await_reconnect(endpoint)
        await self.clock.pause(1.5)
        if self.held is not None:
            await self.held.wait()


def first_attempts_fail(code, count):
    engine = Reconnecting(failures={"a:1": [Transient(code, "first attempt")] * count})
    world = World(only_active(endpoints=("a:1",)), engine=engine)
    engine.clock = world.clock
    return world


async def send_well(world, count, code):
    for _ in range(count):
        world.engine.failures["a:1"] = [Transient(code, "first attempt")]
        assert (await world.chat()).status_code == 200


@pytest.mark.parametrize(
    ("code", "alerts"), [("endpoint_unreachable", []), ("engine_failed", []), ("engine_dead", ["late"])]
)
async def test_what_a_request_waits_after_an_attempt_that_the_target_did_not_fail_is_no_latency(code, alerts):
    world = first_attempts_fail(code, 0)
    await send_well(world, 40, code)
    assert [alert.data["trigger"] for alert in alerts_after(world.records)] == alerts
    assert all(record.e2e_ms >= record.ttft_ms > 0 for record in world.records)


async def test_callers_who_go_away_while_the_endpoint_is_connected_again_say_nothing_about_the_target():
    world = first_attempts_fail("endpoint_unreachable", 7)
    world.engine.held = asyncio.Event()
    callers = [asyncio.ensure_future(world.chat()) for _ in range(7)]
    while len(world.engine.awaited) < 7:
        await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert [record.finish_reason for record in world.records] == ["cancelled"] * 7
    assert alerts_after(world.records) == []
