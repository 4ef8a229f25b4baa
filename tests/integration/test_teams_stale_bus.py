"""A bus that still permits what the list of teams does not: registry and rollback-controller, as processes, refuse it."""

import asyncio
import contextlib
import os
import sys
from datetime import UTC, datetime

import pytest

from contracts import facts as f
from contracts.envelope import plain, source_of
from contracts.vocabulary import canonical_json
from deploy.identity.key_folder import KeyFolder
from shared.messaging.provision import provision
from testbed import factories
from testbed.attesters import attester_variables
from testbed.forked import start
from testbed.ports import free_port
from testbed.servers import HARNESS, NatsServer, S3Server, running, store_variables
from tests.integration.registry_process import Log
from tests.kit import fakes_registry as k
from tests.kit.command import run_command


@pytest.fixture
def keys(tmp_path):
    keys = KeyFolder(tmp_path / "installation")
    keys.prepare(["127.0.0.1"], datetime.now(UTC))
    keys.set_team("shop", ["shop-bot", "faq-bot"])
    keys.set_team("bank", ["bank-bot"])
    for name in ("paula", "peter"):
        keys.add(name, ["publisher", "approver", "operator"], team="shop")
    return keys


@contextlib.contextmanager
def service_process(server, store, keys, folder, service="registry"):
    environment = {
        **os.environ,
        "SLIPWAY_NATS_URL": server.url,
        "SLIPWAY_NATS_CREDENTIALS": str(keys.credential(service)),
        "SLIPWAY_NATS_CA": str(keys.authority),
        **store_variables(store, service),
        "SLIPWAY_STATE_DIR": str(folder),
        "SLIPWAY_HTTP_PORT": str(free_port()),
        "SLIPWAY_TEAMS": str(keys.team_list),
        "REGISTRY_SWEEP_S": "0.3",
        **attester_variables(folder, module := f"services.{service.replace('-', '_')}.main"),
    }
    child = start([sys.executable, "-m", module], folder / f"{service}.log", environment=environment)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def send(client, name, fact, event_id, model):
    event = k.event(fact, event_id, model=model, source=source_of(name))
    await client.jetstream(timeout=5).publish(event.nats_subject, canonical_json(plain(event)))


@contextlib.asynccontextmanager
async def stale_bus(keys, tmp_path):
    """Yield a server and the clients of a removed member, of a member whose team lost a model, and of this test."""
    with running(NatsServer(tmp_path / "nats", keys)) as server, running(S3Server(tmp_path / "s3")) as store:
        provisioner = await server.connect("provisioner")
        await provision(provisioner.jetstream(timeout=30))
        await provisioner.close()
        clients = [await server.connect(name) for name in ("paula", "peter", HARNESS)]
        keys.remove("paula")  # the server does not read its configuration again
        keys.set_team("shop", ["shop-bot"])
        keys.set_team("bank", ["bank-bot", "faq-bot"])
        yield server, store, *clients
        for client in clients:
            await client.close()


async def test_a_removed_member_and_a_model_that_moved_are_refused_though_the_bus_permits_them(keys, tmp_path):
    async with stale_bus(keys, tmp_path) as (server, store, paula, peter, harness):
        log = Log(harness.jetstream(timeout=10))
        with service_process(server, store.settings(), keys, tmp_path):
            await send(paula, "paula", k.ready(model="shop-bot"), "removed", "shop-bot")
            await send(peter, "peter", k.ready(model="faq-bot"), "moved", "faq-bot")
            await send(peter, "peter", k.ready(model="shop-bot", policy=None), "own", "shop-bot")
            rejected = {e.causationid: e.data for e in await log.of(f.CheckpointRejected, 3, timeout_s=60)}
            assert {cause: data.code for cause, data in rejected.items()} == {
                "removed": "team_mismatch",
                "moved": "team_mismatch",
                "own": "policy_missing",  # it got past the check of the sender
            }
            assert "faq-bot belongs to team bank, and peter is no member of it." in rejected["moved"].reason
            approval = k.approval(k.BASE_FOLDER.digest, "r-0123456789abcdef-1")
            await send(paula, "paula", approval, "approved", "shop-bot")
            (refused,) = await log.of(f.OrderRefused)
            assert (refused.causationid, refused.data.code) == ("approved", "team_mismatch")


async def test_the_rollback_controller_takes_no_order_about_a_model_of_another_team(keys, tmp_path):
    async with stale_bus(keys, tmp_path) as (server, store, paula, peter, harness):
        log = Log(harness.jetstream(timeout=10))
        with service_process(server, store.settings(), keys, tmp_path, "rollback-controller"):
            for client, name, model in ((paula, "paula", "shop-bot"), (peter, "peter", "faq-bot")):
                for order in (f.RollbackOrdered, f.DrillOrdered, f.SuspensionDecided):
                    await send(client, name, factories.fact(order), f"{name}-{order.__name__}", model)
            await send(peter, "peter", f.RollbackOrdered(reason="odd"), "own", "shop-bot")
            refused = {e.data.order_id: e.data.code for e in await log.of(f.OrderRefused, 7, timeout_s=60)}
            variables = {
                "SLIPWAY_NATS_URL": server.url,
                "SLIPWAY_NATS_CREDENTIALS": str(keys.credential("peter")),
                "SLIPWAY_NATS_CA": str(keys.authority),
            }
            order = ("rollback", "faq-bot", "--target", "faq-bot.v2.int8", "--reason", "odd")
            code, _, err = await asyncio.to_thread(run_command, variables, *order)
        assert refused.pop("own") == "order_expired", "it got past the check of the sender"
        assert set(refused.values()) == {"team_mismatch"}
        assert (code, "team_mismatch: faq-bot belongs to team bank" in err) == (1, True), err
        assert await log.of(f.RollbackFailed, 0) == []


def test_a_registry_that_cannot_read_the_list_does_not_start(keys, tmp_path):
    keys.team_list.write_text("[")
    no_store = S3Server(tmp_path / "s3", keys).settings()
    nowhere = type("Nowhere", (), {"url": f"tls://127.0.0.1:{free_port()}"})
    with service_process(nowhere, no_store, keys, tmp_path) as child:
        assert child.wait(60) == 1
    assert "(SLIPWAY_TEAMS) cannot be read" in (tmp_path / "registry.log").read_text()
