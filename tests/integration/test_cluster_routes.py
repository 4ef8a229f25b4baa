"""Who may join a cluster of the bus, with the configuration of deploy/docker: servers with its certificate, and no others."""

import contextlib
import json
import urllib.request
from pathlib import Path

import pytest

from deploy.identity.key_folder import KeyFolder
from shared.runtime.clock import SystemClock
from testbed.ports import free_port
from testbed.servers import BIN, Throwaway, accepts, running, wait_until

CONFIG = Path(__file__).resolve().parents[2] / "deploy/docker/nats-cluster.conf"


class Member(Throwaway):
    """A server with the block `cluster` of the containers, at addresses of this machine."""

    def __init__(self, folder, name, pair, keys, routes):
        self.name = name
        certificate, key = pair
        super().__init__(folder)
        self.port, self.http = free_port(), free_port()
        own = routes.setdefault(name, free_port())
        text = CONFIG.read_text().replace('include "slipway.conf"\n', "").replace("$SLIPWAY_NATS_NAME", name)
        text = text.replace("/etc/nats/bus/bus.pem", str(certificate)).replace("/etc/nats/bus/bus-key.pem", str(key))
        text = text.replace("/run/secrets/ca.pem", str(keys.authority)).replace("0.0.0.0:6222", f"127.0.0.1:{own}")
        known = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes.values())
        head, _, _ = text.partition("  routes:")
        self.config = self.folder / "nats.conf"
        self.config.write_text(
            f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.http}"\n{head}  routes: [{known}]\n}}\n'
        )

    def command(self):
        return [str(BIN / "nats-server"), "-c", str(self.config)]

    def ready(self):
        return accepts(self.port)

    def joined(self):
        """Return the names of the servers that this one has routes to."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/routez", timeout=5) as answer:
            return {route["remote_name"] for route in json.load(answer)["routes"]}


@pytest.fixture
def keys(tmp_path):
    folder = KeyFolder(tmp_path / "keys")
    folder.prepare(["127.0.0.1"], SystemClock().now())
    return folder


def test_servers_with_the_certificate_of_the_bus_join_and_one_with_the_stores_does_not(tmp_path, keys):
    routes = {}
    bus = ((keys.certificate, keys.certificate_key), keys, routes)
    store = ((keys.store.certificate, keys.store.certificate_key), keys, routes)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(Member(tmp_path, "first", *bus)))
        second = stack.enter_context(running(Member(tmp_path, "second", *bus)))
        wait_until(lambda: first.joined() == {"second"}, what="a route between the two servers of the bus")
        foreign = stack.enter_context(running(Member(tmp_path, "foreign", *store)))
        log = first.folder / "log"
        wait_until(lambda: "tls route handshake error" in log.read_text().lower(), what="a refusal in its log")
        assert foreign.joined() == set()
        assert (first.joined(), second.joined()) == ({"second"}, {"first"})
