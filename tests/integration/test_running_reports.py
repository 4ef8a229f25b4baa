"""Processes report on the bus in which version they run, and `slipway doctor` names those that differ."""

import asyncio
from datetime import UTC, datetime

import pytest

from clients.cli.doctor.versions import read_versions
from contracts.facts import CheckpointReady
from contracts.routes import Route
from contracts.running import REPORT_EVERY_S, RUNNING_PREFIX, RunningReport
from contracts.services import INBOX, SERVICES, durable_name
from contracts.version import VERSION
from deploy.identity.key_folder import KeyFolder
from shared.messaging.bus import Bus
from shared.messaging.provision import provision
from shared.messaging.refusals import Refusals
from shared.messaging.running import MOST_PROCESSES, await_turn, collect_running
from shared.runtime.clock import SystemClock
from shared.runtime.service import _connect
from shared.storage.kept_records import KeptRecords
from testbed.servers import NatsServer, running, wait_until

FIRST = "rollback-controller"
OLDER = RunningReport(process="0123456789abcdef", version="0.0.9")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("reports") / "keys")
    folder.prepare(["127.0.0.1"], datetime.now(UTC))
    for name, role in (("admin", "administrator"), ("victor", "viewer"), ("paula", "publisher")):
        folder.add(name, [role], ["bot"] if role == "publisher" else [])
    of_before = f'"{RUNNING_PREFIX}.mirror"'
    text = folder.server_config.read_text()
    assert of_before in text
    folder.server_config.write_text(text.replace(of_before, '"nothing"'))
    return folder


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory, keys):
    with running(NatsServer(tmp_path_factory.mktemp("nats"), keys)) as server:
        yield server


@pytest.fixture
async def bus(nats_server):
    client = await nats_server.connect()
    await provision(client.jetstream(timeout=30))
    await client.close()
    bus = Bus(nats_server.settings("merger"), "merger", SystemClock())
    await bus.connect()
    yield bus
    await bus.stop()


async def reporting(client, subject):
    while True:
        await client.publish(subject, OLDER.model_dump_json().encode())
        await asyncio.sleep(0.1)


def unheard_beside(*reporting):
    others = ", ".join(name for name in SERVICES if name not in reporting)
    return f"not heard (not running, or of an earlier version): {others}"


async def finding_of(nats_server, user):
    return await asyncio.to_thread(read_versions, nats_server.settings(user))


@pytest.mark.parametrize("user", ["admin", "victor"])
async def test_doctor_names_the_services_that_run_in_another_version_or_report_none(nats_server, bus, user):
    monitor, registry = await nats_server.connect("monitor"), await nats_server.connect("registry")
    older = asyncio.create_task(reporting(monitor, f"{RUNNING_PREFIX}.monitor"))
    durable = durable_name("registry", CheckpointReady)
    silent = await registry.jetstream().pull_subscribe_bind(durable, INBOX)
    waiting = asyncio.create_task(silent.fetch(1, timeout=60))
    try:
        finding = await finding_of(nats_server, user)
        assert finding.state == "warning"
        expected = f"this command line is {VERSION}; 0.0.9: monitor; {VERSION}: merger; an unknown version: registry"
        assert finding.detail == f"{expected}; {unheard_beside('monitor', 'merger', 'registry')}"
    finally:
        older.cancel()
        waiting.cancel()
        await asyncio.gather(older, waiting, return_exceptions=True)
        await monitor.close()
        await registry.close()
    finding = await finding_of(nats_server, user)
    assert finding.state == "ok"
    assert finding.detail == (
        f"the 1 services that report run in {VERSION}, as this command line; {unheard_beside('merger')}"
    )


async def test_nobody_reports_in_the_name_of_a_service_nor_by_anything_else(nats_server, bus):
    admin = await nats_server.connect("admin")
    forged = asyncio.create_task(reporting(admin, f"{RUNNING_PREFIX}.monitor"))
    try:
        reported = await collect_running(admin)
    finally:
        forged.cancel()
        await asyncio.gather(forged, return_exceptions=True)
        await admin.close()
    assert reported == {"merger": [VERSION]}


async def test_a_service_that_was_taken_over_is_listed_with_so_many_processes_and_no_more(nats_server, bus):
    monitor, admin = await nats_server.connect("monitor"), await nats_server.connect("admin")

    async def flood():
        while True:
            for number in range(3 * MOST_PROCESSES):
                report = OLDER.model_copy(update={"process": f"{number:08x}"})
                await monitor.publish(f"{RUNNING_PREFIX}.monitor", report.model_dump_json().encode())
            await monitor.publish(f"{RUNNING_PREFIX}.monitor", b'{"process": "ffffffff", "version": "9\\u001b[31m"}')
            await asyncio.sleep(0.1)

    flooding = asyncio.create_task(flood())
    try:
        reported = await collect_running(admin)
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        await monitor.close()
        await admin.close()
    assert reported == {"merger": [VERSION], "monitor": [OLDER.version] * MOST_PROCESSES}


async def test_a_service_waits_for_its_turn_while_the_one_before_it_runs_in_an_older_version_only(nats_server, bus):
    manager, controller = await nats_server.connect("server-manager"), await nats_server.connect("rollback-controller")
    await asyncio.wait_for(await_turn(manager, FIRST, listen_s=0.3), 10)  # none runs
    older = asyncio.create_task(reporting(controller, f"{RUNNING_PREFIX}.{FIRST}"))
    waiting = asyncio.create_task(await_turn(manager, FIRST, listen_s=0.3))
    try:
        await asyncio.wait_for(await_turn(manager, FIRST, listen_s=0.3, turn_s=0.0), 10)  # its time is up
        assert not waiting.done()
        newer = Bus(nats_server.settings(FIRST), FIRST, SystemClock())
        await newer.connect()  # beside the older one, as in an upgrade that rolls
        await asyncio.wait_for(waiting, 30)
        await newer.stop()
    finally:
        older.cancel()
        waiting.cancel()
        await asyncio.gather(older, waiting, return_exceptions=True)
        await manager.close()
        await controller.close()


async def test_server_manager_is_not_ready_until_it_is_its_turn_where_an_older_version_wrote_a_route(nats_server, bus):
    manager = Bus(nats_server.settings("server-manager"), "server-manager", SystemClock())
    controller = await nats_server.connect(FIRST)
    older = asyncio.create_task(reporting(controller, f"{RUNNING_PREFIX}.{FIRST}"))
    await controller.jetstream().publish("$KV.routes.bot", b'{"schema_version":1,"model":"bot"}')
    records = KeptRecords("server-manager", {}, {"routes": lambda _: Route})
    connecting = asyncio.create_task(_connect(manager, records, (), FIRST))
    try:
        await asyncio.to_thread(wait_until, lambda: records.has_older, what="the older route")
        newer = Bus(nats_server.settings(FIRST), FIRST, SystemClock())
        done, _ = await asyncio.wait([connecting], timeout=REPORT_EVERY_S)
        assert not done
        await newer.connect()
        await asyncio.wait_for(connecting, 30)
        await newer.stop()
    finally:
        for task in (older, connecting):
            task.cancel()
        await asyncio.gather(older, connecting, return_exceptions=True)
        await controller.close()
        await manager.stop()


async def test_who_may_not_read_all_models_is_told_so(nats_server, bus):
    finding = await finding_of(nats_server, "paula")
    assert finding.state == "skipped"
    assert "needs a role that reads all models" in finding.detail


async def test_a_bus_that_permits_no_reports_is_asked_once(nats_server, bus):
    """As one that has not read the permissions of this version yet."""
    mirror = Bus(nats_server.settings("mirror"), "mirror", SystemClock())
    await mirror.connect()
    try:
        async with asyncio.timeout(30):
            while not mirror._refusals.refuses_reports:
                await asyncio.sleep(0.05)
        assert mirror.client.is_connected
    finally:
        await mirror.stop()


async def test_reports_are_sent_again_once_the_bus_has_accepted_the_key_again():
    sentences = []
    refusals = Refusals("mirror", sentences.append)
    await refusals.note(Exception(f'nats: permissions violation for publish to "{RUNNING_PREFIX}.mirror"'))
    assert refusals.refuses_reports
    assert len(sentences) == 1
    await refusals.accept()
    assert not refusals.refuses_reports
