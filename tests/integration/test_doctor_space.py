"""`slipway doctor` on the disks of a real bus: its own limits, its server's, its disk, and what a reader is told."""

import asyncio
from dataclasses import replace

import pytest
from nats.js.api import StreamConfig

from clients.cli.doctor.assess import GIB
from clients.cli.doctor.space import ask_bus
from deploy.local.state import ADMIN, StateFolder, new_description
from shared.messaging import topology
from shared.messaging.provision import provision
from testbed.ports import free_port
from testbed.servers import NatsServer, running
from tests.kit.small_disk import small_disk

LIMITS = f"streams and buckets may take {topology.file_bytes() / GIB:.1f} GiB"


class Monitored(NatsServer):
    """A bus with a monitoring port, on a disk of 64 MiB."""

    def __init__(self, folder, disk):
        super().__init__(folder)
        self.disk, self.monitoring = disk, free_port()
        config = self.folder / "nats.conf"
        text = config.read_text().replace(f"{self.folder}/js", str(disk.mounted / "nats"))
        config.write_text(f'http: "127.0.0.1:{self.monitoring}"\n{text}')

    def command(self):
        return [*self.disk.prefix, *super().command()]

    def allow(self, size):
        """Start it again with another `max_file_store`."""
        config = self.folder / "nats.conf"
        config.write_text(config.read_text().replace("max_file_store: 16GB", f"max_file_store: {size}"))
        self.stop()
        self.start()

    def change(self, work):
        """Do something with its JetStream, and return the result."""

        async def connected():
            client = await self.connect()
            try:
                return await work(client.jetstream(timeout=10))
            finally:
                await client.close()

        return asyncio.run(connected())


@pytest.fixture
def bus(tmp_path):
    with small_disk(tmp_path / "disk", 64) as disk, running(Monitored(tmp_path, disk)) as server:
        server.change(provision)
        yield server


@pytest.fixture
def folder(bus):
    """The state folder of a stack with this bus; both are on the small disk."""
    folder = StateFolder(bus.disk.path)
    folder.path = bus.disk.path  # resolved, it would be the folder below the disk
    folder.write_description(replace(new_description(), ports={"nats-monitor": bus.monitoring}))
    return folder


def test_limits_are_compared_with_the_disk_and_with_what_the_server_allows(bus, folder):
    finding = ask_bus(bus.settings(ADMIN), folder)
    assert (finding.state, finding.detail) == (
        "warning",
        f"{LIMITS}, 0.0 GiB taken; 0.1 GiB free for {folder.shown}",
    )
    assert f"keep {topology.file_bytes() / GIB:.1f} GiB free" in finding.advice
    bus.allow("1GB")
    finding = ask_bus(bus.settings(ADMIN), folder)
    assert (finding.state, finding.detail) == (
        "failure",
        f"{folder.shown}: {LIMITS}, 0.0 GiB taken; the server allows 1.0 GiB",
    )
    assert f"set max_file_store (of an account: its storage) to {topology.file_bytes()} bytes" in finding.advice


def test_elsewhere_the_limits_are_named_and_the_disk_is_not_seen(bus):
    finding = ask_bus(bus.settings(ADMIN))
    assert finding.state == "ok"
    assert finding.detail.startswith(f"{bus.url}: {LIMITS}, 0.0 GiB taken; its disk is not seen from here")
    bus.change(lambda js: js.add_stream(StreamConfig(name="OTHER", subjects=["other.>"])))
    finding = ask_bus(bus.settings(ADMIN))
    assert (finding.state, finding.detail) == ("warning", f"{bus.url}: without a limit of size: OTHER")
    bus.stop()
    assert ask_bus(bus.settings(ADMIN)).state == "skipped"
