"""The bucket `routes` is emptied, deleted, or restored, on a real bus: no process is restarted, and a rollback is in force."""

import asyncio

import pytest

from contracts.routes import Route
from decisions.routes.edits import Changed, roll_back
from services.rollback_controller.adapters.kv import KvRoutes as ControllerRoutes
from services.server_manager.adapters.kv_state import KvRecords, KvRoutes
from services.server_manager.adapters.repository_files import RoutesFile
from services.server_manager.known_routes import KnownRoutes
from services.server_manager.ports import RouteListing
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed.factories import MODEL, served
from testbed.gateway import Gateway
from testbed.servers import connection, running

V5, V6, V7 = (served(version, "bf16") for version in (5, 6, 7))
BACKUP = Route(model=MODEL, epoch=9, active=V7, previous=V6, history=(V5,), cause_id="promoted")
"""Version 7 serves; it is quarantined a moment later, after the backup was made."""


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as process:
        yield process


@pytest.fixture
def manager_routes(js, tmp_path):
    """Return server-manager's routes as after a start."""
    return lambda: KnownRoutes(KvRoutes(KvRecords(lambda: js, "routes", Route)), RoutesFile(tmp_path / "repository"))


async def until(gateway, *, serving, routes):
    """Wait until the gateway lists `serving` as active and reports `routes` of them."""
    async with asyncio.timeout(15):
        while True:
            models = [model["id"] for model in gateway.get("/v1/models").json()["data"]]
            reported = gateway.get("/readyz").json()["checks"]["routes"]
            if models[1:2] == [f"{MODEL}@v{serving}"] and reported == routes:
                return
            await asyncio.sleep(0.05)


async def emptied(js):
    await js.purge_stream("KV_routes")


async def deleted(js):
    await (await js.key_value("routes")).delete(MODEL)


async def made_anew(js):
    await js.delete_stream("KV_routes")
    await provision(js)


async def restored_older(js):
    await made_anew(js)
    await Bucket(js, "routes", Route).create(MODEL, BACKUP)


LOSSES = {
    emptied: f"routes_lost: {MODEL}",
    deleted: f"routes_lost: {MODEL}",
    made_anew: f"routes_lost: {MODEL}",
    restored_older: f"routes_older: {MODEL} (serving epoch 10, the bucket has 9)",
}


async def quarantine(js):
    """Serve version 7, then roll it back: epoch 10, version 6 active."""
    bucket = Bucket(js, "routes", Route)
    revision = await bucket.create(MODEL, BACKUP.model_copy(update={"epoch": 1}))
    revision = await bucket.update(MODEL, BACKUP, revision)
    after = roll_back(BACKUP, V7.target, cause_id="alert").route
    await bucket.update(MODEL, after, revision)
    return after


@pytest.mark.parametrize("loss", LOSSES)
async def test_server_manager_restores_the_bucket_and_a_rollback_is_in_force(js, gateway, manager_routes, loss):
    after = await quarantine(js)
    await until(gateway, serving=6, routes="1 (live)")
    assert await manager_routes().all() == RouteListing({MODEL: after})
    await loss(js)
    await until(gateway, serving=6, routes=f"1 (live); {LOSSES[loss]}")
    assert await manager_routes().all() == RouteListing({MODEL: after}), "also when server-manager was started again"
    await until(gateway, serving=6, routes="1 (live)")
    edit = await manager_routes().edit(MODEL, lambda route: roll_back(route, V6.target, cause_id="next"))
    assert isinstance(edit, Changed)
    await until(gateway, serving=5, routes="1 (live)")


async def test_the_rollback_controller_alone_rolls_back_on_what_gateways_serve(js, gateway):
    after = await quarantine(js)
    controller = ControllerRoutes(lambda: js)
    assert (await controller.get("production", MODEL)).value == after
    await until(gateway, serving=6, routes="1 (live)")
    await restored_older(js)
    await until(gateway, serving=6, routes=f"1 (live); {LOSSES[restored_older]}")
    entry = await controller.get("production", MODEL)
    edit = roll_back(entry.value, V6.target, cause_id="next")
    await controller.put("production", edit.route, entry.revision)
    await until(gateway, serving=5, routes="1 (live)")


async def test_a_backup_of_the_same_content_changes_nothing_and_is_followed(js, gateway):
    after = await quarantine(js)
    await until(gateway, serving=6, routes="1 (live)")
    await made_anew(js)
    revision = await Bucket(js, "routes", Route).create(MODEL, after)
    await until(gateway, serving=6, routes="1 (live)")
    await Bucket(js, "routes", Route).update(MODEL, roll_back(after, V6.target, cause_id="next").route, revision)
    await until(gateway, serving=5, routes="1 (live)")


async def test_without_the_bucket_itself_server_manager_and_controller_know_the_routes(js, manager_routes):
    after = await quarantine(js)
    controller = ControllerRoutes(lambda: js)
    assert (await controller.get("production", MODEL)).value == after
    assert await manager_routes().all() == RouteListing({MODEL: after})
    await js.delete_stream("KV_routes")
    assert await manager_routes().all() == RouteListing({MODEL: after})
    assert (await controller.get("production", MODEL)).value == after
