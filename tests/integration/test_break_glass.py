"""A rollback at gateways while the bus is down, hangs or comes back with a newer route: real bus, gateways, Triton."""
# ruff: noqa: F811 - fixtures of another module are arguments here

import contextlib
import json
import os
import signal
from datetime import UTC, datetime

import httpx
import pytest

from contracts.facts import OrderRefused, RollbackReported, RollbackStarted
from contracts.gateway_rollbacks import PATH, SignedGatewayRollback
from contracts.identities import Credential
from contracts.routes import Route
from decisions.route_edits import promote
from deploy.local.state import ADMIN
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed.administrators import credential, signed_rollback
from testbed.factories import target
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from testbed.services import running_service, stored_facts
from tests.integration.break_glass import (
    MODEL,
    connected,
    order,
    served,
    slipway,  # noqa: F401 - fixtures
    until_served,
)

pytestmark = pytest.mark.real
V1, V2, V3 = (target(version, "bf16", MODEL) for version in (1, 2, 3))
CONTROLLER = "services.rollback_controller.main"


@pytest.fixture(scope="module")
def toy(triton):
    return {version: load_toy(triton, MODEL, version) for version in (1, 2, 3)}


@pytest.fixture
async def route(js, toy):
    """The route that is served before: version 2 is active, version 1 is behind it."""
    route = Route(model=MODEL, epoch=7, active=toy[2], previous=toy[1], history=(toy[3],), cause_id="before")
    await Bucket(js, "routes", Route).create(MODEL, route)
    return route


@pytest.fixture
def gateways(nats_server, route, tmp_path):
    """Two gateways, the first with two workers."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(
                running(Gateway(tmp_path / name, connection(nats_server, None, tmp_path / name), workers=workers))
            )
            for name, workers in (("a", 2), ("b", 1))
        ]
        for gateway in made:
            until_served(gateway, 2)
        yield made


def unconfirmed(gateway) -> bool:
    return "rolled back here" in gateway.get("/readyz").json()["checks"]["routes"]


def post(gateway, signed) -> tuple[int, str | None]:
    answer = httpx.post(gateway.base_url + PATH, json=signed.model_dump(mode="json"), timeout=30)
    return answer.status_code, answer.json().get("error", {}).get("code")


async def route_of(js) -> Route:
    return (await Bucket(js, "routes", Route).get(MODEL)).value


def saved(gateway) -> dict:
    """Return what a gateway has kept of rollbacks, by the id of the order."""
    return json.loads((gateway.folder / "work" / "gateway" / "rollbacks.json").read_text())


def outcomes(gateways) -> list[str]:
    return [record["outcome"] for gateway in gateways for record in saved(gateway).values()]


async def start_again(nats_server) -> None:
    """Start the bus, and provision it as what starts a bus does: what it held in memory is gone."""
    nats_server.start()
    async with connected(nats_server) as js:
        await provision(js, dedupe_window_s=2.0)


async def test_down_ordered_restarted_and_back(nats_server, gateways, slipway, bus_settings):
    first, second = gateways
    refused = order(slipway, gateways)
    assert (refused.returncode, refused.stdout.count("bus_available"), served(first)) == (1, 2, {"v2"}), refused
    nats_server.kill()
    planned = order(slipway, gateways, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert (planned.stdout.count("would serve toy.v1.bf16"), served(first)) == (2, {"v2"})
    done = order(slipway, gateways)
    assert done.returncode == 0, done.stdout + done.stderr
    for gateway in gateways:
        until_served(gateway, 1)
    again = order(slipway, gateways)
    assert (again.returncode, again.stdout.count("--target")) == (1, 2), "it must not roll back version 1 as well"
    for forged, answer in forgeries(nats_server):
        assert post(first, forged) == answer
    first.kill()
    first.start()
    until_served(first, 1)
    assert unconfirmed(first)
    await start_again(nats_server)
    with running_service(CONTROLLER, bus_settings):
        wait_until(lambda: outcomes(gateways) == ["applied"] * 2, timeout_s=60, what="both being answered")
        wait_until(lambda: not unconfirmed(first) and not unconfirmed(second), what="both gateways following the bus")
    (order_id,) = saved(first)
    async with connected(nats_server) as js:
        route = await route_of(js)
        (begun,) = [event.data for event in await stored_facts(js, RollbackStarted)]
        assert 1 <= len(await stored_facts(js, RollbackReported)) <= 2
    assert (route.active.target, route.quarantined, route.epoch) == (V1, (V2,), 8)
    assert (begun.cause_id, begun.mode, begun.rollback_id) == (order_id, "manual", route.cause_id)
    same = SignedGatewayRollback.model_validate(saved(first)[order_id]["order"])
    assert (post(second, same), served(first), served(second)) == ((200, None), {"v1"}, {"v1"})


def forgeries(nats_server):
    """Return orders that must change nothing, each with its answer, for a gateway that went back to version 1."""
    admin, now = Credential.from_text(nats_server.keys.credential(ADMIN).read_text()), datetime.now(UTC)
    long_ago = {"issued_at": datetime(2020, 1, 1, tzinfo=UTC), "expires_at": datetime(2099, 1, 1, tzinfo=UTC)}
    return (
        (signed_rollback(credential(ADMIN), V1, 8, now), (403, "key_not_trusted")),
        (signed_rollback(admin, V1, 8, now, administrator="oscar"), (403, "signature_invalid")),
        (signed_rollback(admin, V1, 7, now), (409, "stale_epoch")),
        (signed_rollback(admin, target(1, "bf16", "other"), 8, now), (409, "not_in_traffic")),
        (signed_rollback(admin, V1, 8, now, **long_ago), (409, "order_expired")),
    )


async def test_a_newer_route_wins_and_the_report_is_refused(nats_server, gateways, slipway, bus_settings):
    first, second = gateways
    nats_server.kill()
    assert order(slipway, [first]).returncode == 0
    until_served(first, 1)
    assert served(second) == {"v2"}
    await start_again(nats_server)
    async with connected(nats_server) as js:
        entry = await Bucket(js, "routes", Route).get(MODEL)
        third = entry.value.history[0]
        newer = promote(entry.value, third, weight_ratio=1.0, epoch=7, cause_id="promoted").route
        await Bucket(js, "routes", Route).update(MODEL, newer, entry.revision)
    for gateway in gateways:
        until_served(gateway, 3)
    with running_service(CONTROLLER, bus_settings):
        wait_until(lambda: outcomes([first]) == ["refused"], timeout_s=60, what="the report being refused")
    async with connected(nats_server) as js:
        (refused,) = [event.data for event in await stored_facts(js, OrderRefused)]
        assert (refused.code, refused.order_type) == ("stale_epoch", RollbackReported.TYPE)
        assert (await route_of(js)) == newer


async def test_a_bus_that_hangs_counts_as_one_that_is_down(nats_server, gateways, slipway, bus_settings):
    first, _ = gateways
    os.kill(nats_server.process.pid, signal.SIGSTOP)
    try:
        done = order(slipway, [first])
        assert done.returncode == 0, done.stdout + done.stderr
        until_served(first, 1)
    finally:
        os.kill(nats_server.process.pid, signal.SIGCONT)
    with running_service(CONTROLLER, bus_settings):
        for gateway in gateways:
            until_served(gateway, 1)


async def test_a_bus_without_the_routes_counts_as_one_that_is_down(js, gateways, slipway):
    first, _ = gateways
    await js.delete_key_value("routes")
    done = order(slipway, [first])
    assert done.returncode == 0, done.stdout + done.stderr
    until_served(first, 1)


async def test_what_the_controller_does_not_trust_ends_at_the_gateway(nats_server, gateways, bus_settings):
    """The administrator's key is withdrawn before the bus is back: the route of the bus counts again."""
    first, _ = gateways
    nats_server.keys.add("maria", ["administrator"])
    maria = Credential.from_text(nats_server.keys.credential("maria").read_text())
    nats_server.kill()
    assert post(first, signed_rollback(maria, V2, 7, datetime.now(UTC), administrator="maria")) == (200, None)
    until_served(first, 1)
    nats_server.keys.remove("maria")
    await start_again(nats_server)
    with running_service(CONTROLLER, bus_settings):
        wait_until(lambda: outcomes([first]) == ["refused"], timeout_s=60, what="the report being refused")
        until_served(first, 2)
    async with connected(nats_server) as js:
        assert (await route_of(js)).epoch == 7
