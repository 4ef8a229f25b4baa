"""Buckets and streams of the bus are emptied under load: a drill is still detected and rolled back, or an alert says why not."""

import asyncio
import json
import time
from datetime import timedelta

import pytest

from clients.cli.commands.orders import order
from clients.cli.connection import ask_bus, find_stack, sender_of
from clients.cli.reading import last_message
from clients.cli.releases.version_records import read_routes
from contracts.facts import DrillFault, DrillOrdered, Fact, SuspensionDecided
from contracts.routes import Route
from contracts.vocabulary import Deployable
from decisions.access.bus_permissions import STREAMS
from shared.messaging.credentials import connect
from shared.messaging.publishing import publish_event
from shared.messaging.topology import BUCKETS
from shared.runtime.clock import SystemClock
from testbed.servers import wait_until
from testbed.stack import POLICY
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]
MODEL = "bot"
BAD, GOOD = 2, 1
WITHIN_S = 60.0
AUTOMATIC = {"min_requests": 10, "alpha": 0.01, "action": "automatic", "window_s": 5}
WITH_ROLLBACK = {
    **POLICY,
    "rehearsal": "required",
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.9, "deadline_s": 240},
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.05, **AUTOMATIC}],
}


@pytest.fixture(scope="module")
def stack(module_stack, tiny):
    """Two promoted versions, and the second one takes all traffic."""
    stack = module_stack(
        MONITOR_UPDATE_EVERY_S="2",
        ROLLBACK_CONTROLLER_VERIFY_S="5",
    )
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", policy=WITH_ROLLBACK)
    stack.promoted(MODEL)
    stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=WITH_ROLLBACK)
    with load(stack):
        stack.promoted(MODEL)
    return stack


def load(stack) -> Users:
    return Users(f"http://127.0.0.1:{stack.part('gateway')['port']}", stack.headers, MODEL)


def purge(stack, *streams: str) -> None:
    """Empty streams; the stream of a bucket is `KV_` and its name."""

    async def empty() -> None:
        client = await connect(find_stack(stack.state).connection)
        for stream in streams:
            await client.jetstream().purge_stream(stream)
        await client.close()

    asyncio.run(empty())


def route_of(stack) -> Route | None:
    """Return the route; None while it is not written back."""
    return ask_bus(find_stack(stack.state), read_routes).get(MODEL)


def active(stack) -> int | None:
    """Return the version that serves."""
    route = route_of(stack)
    return route.active.target.version if route is not None and route.active is not None else None


def give(stack, fact: Fact) -> None:
    """Publish an order of the person of this machine."""
    address = find_stack(stack.state)
    event = order(sender_of(address), MODEL, None, fact)

    async def publish() -> None:
        client = await connect(address.connection)
        await publish_event(client.jetstream(timeout=10), event, random_id=True)
        await client.close()

    asyncio.run(publish())


def drill(stack, bad: Deployable, error_ratio: float) -> None:
    """Have most requests of the bad version fail, or none any more."""
    ordered = DrillOrdered(
        reason="test",
        target=bad.target,
        fault=DrillFault(error_ratio=error_ratio),
        share_ratio=0.6 if error_ratio else 0.0,
        expires_at=SystemClock().now() + timedelta(seconds=120),
        environment="production",
    )
    give(stack, ordered)


def is_moved(stack, bad: Deployable) -> bool:
    """Return whether a drill that fails most requests of the bad version moves traffic within a minute."""
    drill(stack, bad, 1.0)
    deadline = time.monotonic() + WITHIN_S
    while active(stack) != GOOD:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)  # between two looks
    return True


def bad_version(stack) -> Deployable:
    """Wait until the bad version serves; return it."""
    wait_until(lambda: active(stack) == BAD, timeout_s=60, what="the bad version, and its route if it was lost")
    route = route_of(stack)
    assert route is not None
    return Deployable(**{name: getattr(route.active, name) for name in Deployable.model_fields})


def serve_again(stack, bad: Deployable) -> None:
    """End the drill and have the bad version serve again, as a person decides."""
    drill(stack, bad, 0.0)
    epoch = route_of(stack).epoch
    give(stack, SuspensionDecided(reason="test", target=bad.target, decision="return", at_once=True, epoch=epoch))
    wait_until(lambda: active(stack) == BAD, timeout_s=60, what="the bad version being served again")


async def open_alerts(js) -> list[str]:
    """Return the kinds of the open alerts in the monitor's record."""
    record = await last_message(js, "KV_alerts", f"$KV.alerts.production.{MODEL}")
    alerts = json.loads(record.data)["alerts"].values() if record is not None else []
    return [alert["kind"] for alert in alerts if alert.get("open", True)]


EACH = [*(f"KV_{bucket}" for bucket in BUCKETS), *STREAMS]
LOST = [*([name] for name in EACH), EACH]
"""What is lost in each round: one bucket or stream, and at the end all of them."""

PARTS = ("first", "second", "third")


@pytest.mark.parametrize("part", PARTS)
def test_after_the_loss_of_each_bucket_or_stream_or_of_all_a_drill_is_rolled_back(stack, part):
    with load(stack):
        for lost in LOST[PARTS.index(part) :: len(PARTS)]:
            bad = bad_version(stack)
            purge(stack, *lost)
            assert is_moved(stack, bad), f"after the loss of {lost} nothing moved\n{stack.tail()}"
            serve_again(stack, bad)
    assert "blind" not in ask_bus(find_stack(stack.state), open_alerts)
