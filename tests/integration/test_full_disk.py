"""The disk under the bus is full: serving goes on, the ways back work, and nothing acknowledged is lost."""

import asyncio
import contextlib
import os
import subprocess
import sys

import pytest
from nats.js.errors import APIError

from contracts import facts as f
from contracts.routes import Route
from deploy.local import full_disk
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed.gateway import ROOT, load_toy
from testbed.ports import free_port
from testbed.servers import NatsServer, running
from testbed.services import running_service, wait_for_fact
from tests.integration.rollback_process import MODEL, MODULE, QUICK, alert, learn, publish, target
from tests.kit.small_disk import small_disk

pytestmark = pytest.mark.real


class SmallNats(NatsServer):
    """A bus on a small disk, with its monitoring port."""

    def __init__(self, folder, disk):
        super().__init__(folder)
        self.restarts = full_disk.Restarts()
        self.disk, self.monitoring = disk, f"http://127.0.0.1:{(port := free_port())}"
        config = self.folder / "nats.conf"
        text = config.read_text().replace(f"{self.folder}/js", str(disk.mounted))
        config.write_text(f'http: "127.0.0.1:{port}"\n{text}')

    def command(self):
        return [*self.disk.prefix, *super().command()]

    def look(self):
        """Do what a supervisor does every two seconds; return whether it started the bus again."""
        why = full_disk.look(self.monitoring, self.disk.path, self.restarts)
        if why is not None:
            self.stop()
            self.start()
        return why is not None


@pytest.fixture(scope="module")
def toy(triton):
    return {version: load_toy(triton, MODEL, version) for version in (1, 2)}


@pytest.fixture
def nats_server(tmp_path):
    with small_disk(tmp_path / "disk", 160) as disk, running(SmallNats(tmp_path, disk)) as server:
        yield server


@pytest.fixture
async def js(nats_server):
    client = await nats_server.connect()
    context = client.jetstream(timeout=30)
    await provision(context, dedupe_window_s=2.0)
    yield context
    await client.close()


@pytest.fixture
async def route(js, toy):
    route = Route(model=MODEL, epoch=7, active=toy[2], previous=toy[1], cause_id="before")
    await Bucket(js, "routes", Route).create(MODEL, route)


async def until_refused(nats_server, js):
    """Write routes until the bus has given up their stream."""
    records = await js._nc.jetstream(timeout=1).key_value("routes")
    async with asyncio.timeout(30):
        while full_disk.lost_stream(nats_server.monitoring) is None:
            with contextlib.suppress(TimeoutError, APIError):
                await records.put("filler", bytes(2048))


async def test_an_automatic_rollback_takes_the_reserve(nats_server, js, route, bus_settings):
    disk = nats_server.disk
    assert not nats_server.look()
    assert (disk.path / full_disk.RESERVE).stat().st_size == full_disk.RESERVE_BYTES
    with running_service(MODULE, bus_settings, **QUICK):
        await learn(js, 1, 2)
        disk.fill()
        await until_refused(nats_server, js)
        assert nats_server.look(), "the reserve is given up"
        await publish(js, alert())
        (changed,) = await wait_for_fact(js, f.DeploymentChanged, timeout_s=30)
    assert changed.data.route.active.target == target(1)
    assert not (disk.path / full_disk.RESERVE).exists()
    disk.free()
    assert not nats_server.look()
    assert (disk.path / full_disk.RESERVE).exists(), "it is taken again once there is space"


def test_the_supervisor_starts_the_bus_again_with_the_space_of_the_reserve(tmp_path):
    with small_disk(tmp_path / "disk", 300) as disk:
        command = [*disk.prefix, sys.executable, "-m", "tests.kit.full_disk_stack", str(disk.mounted / "state")]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("the reserve of 33554432 bytes is given up") == 1
