"""What runs beside the services in containers: a bus that was restarted has telemetry again, and only that is made."""

import asyncio

import pytest

from contracts.identities import PROVISIONER
from contracts.services import EVENTS, TELEMETRY
from deploy.docker.provisioner import LOOKED, keep_provisioned, missing_streams
from shared.messaging.provision import provision


@pytest.fixture
async def provisioner(js, settings, tmp_path):
    """The program on a bus that is prepared, as the identity that compose gives it; the stamp of its last look."""
    await provision(js)
    assert settings.nats_credentials is not None
    own = settings.nats_credentials.with_name(f"{PROVISIONER}.nk")
    stamp = tmp_path / "provisioned"
    program = keep_provisioned(settings.model_copy(update={"nats_credentials": own}), stamp, every_s=0.1)
    task = asyncio.create_task(program)
    yield stamp
    while not task.done():  # `asyncio.wait_for` of Python 3.11 loses a cancellation that comes with an answer
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)


async def eventually(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_telemetry_that_a_restart_lost_is_made_again_with_its_consumers(js, provisioner):
    before = {consumer.name for consumer in await js.consumers_info(TELEMETRY)}
    assert before
    await js.delete_stream(TELEMETRY)  # as a restart of the bus, which keeps it in memory

    async def whole():
        return not await missing_streams(js) and before == {each.name for each in await js.consumers_info(TELEMETRY)}

    await eventually(whole)
    seen = provisioner.stat().st_mtime_ns if provisioner.exists() else 0

    async def looked_again():
        return provisioner.exists() and provisioner.stat().st_mtime_ns > seen

    await eventually(looked_again)


async def test_a_bus_that_lost_its_log_gets_no_empty_one(js, provisioner, capsys):
    await eventually(lambda: asyncio.sleep(0, provisioner.exists()))
    await js.delete_stream(EVENTS)

    async def reported():
        return f"the bus has no {EVENTS}: restore" in capsys.readouterr().err

    await eventually(reported)
    stamped, looked = provisioner.stat().st_mtime_ns, provisioner.with_name(LOOKED)
    for _ in range(3):
        before = looked.stat().st_mtime_ns
        await eventually(lambda: asyncio.sleep(0, looked.stat().st_mtime_ns > before))  # noqa: B023 - awaited here
    assert await missing_streams(js) == {EVENTS}
    assert provisioner.stat().st_mtime_ns == stamped, "its health check fails from now on; a liveness probe does not"
    await provision(js)
