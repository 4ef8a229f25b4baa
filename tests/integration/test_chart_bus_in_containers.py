"""The chart's three servers of the bus in containers that have the names of its pods, replaced one after the other.

Needs podman, root, and the images `slipway-nats` and `slipway-prepare` (`deploy/docker/images.sh nats prepare`). Names
are resolved by podman's own server: those of the pods, and `slipway-nats` to all of them, as a headless service's is.
A container that is made again has another address, as a pod.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.version import VERSION
from deploy.identity.key_folder import KeyFolder
from testbed.containers import engine
from testbed.containers.waiting import wait_for
from tests.kit.charts.rendered import find
from tests.kit.wiring import ROOT

IMAGES = {name: f"localhost/slipway-{name}:{VERSION}" for name in ("nats", "prepare")}
USER, HEALTHY_S, WRITES = 10001, 180.0, 50
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
WRITER = """
import asyncio, json, sys
from pathlib import Path
from contracts.identities import PROVISIONER
from shared.messaging.credentials import connect
from shared.messaging.patience import PatientJetStream
from shared.messaging.provision import provision
from shared.runtime.settings import Connection
from testbed.written import Counted, Published, audit, writing

async def main():
    as_ = lambda name: Connection(nats_credentials=Path(f"/keys/credentials/{name}.nk"))
    owner = await connect(as_(PROVISIONER), PROVISIONER)
    await provision(owner.jetstream(timeout=60), replicas=3)
    clients = [await connect(as_(name), name) for name in ("registry", "rollback-controller", "admin")]
    publisher, editor, reader = (PatientJetStream(client, timeout=30) for client in clients)
    published, counted = Published(publisher), Counted(editor)
    async with writing(published, counted):
        print(json.dumps({"writing": True}), flush=True)
        loop, progress = asyncio.get_running_loop(), asyncio.create_task(show(published, counted))
        await loop.run_in_executor(None, sys.stdin.readline)
        progress.cancel()
    result = await audit(reader, published)
    print(json.dumps({"acknowledged": result.acknowledged, "lost": result.lost, "twice": result.twice,
                      "changes": counted.changes, "stored": await counted.stored()}), flush=True)

async def show(published, counted):
    while True:
        print(json.dumps({"written": min(len(published.acknowledged), counted.changes)}), flush=True)
        await asyncio.sleep(0.5)

asyncio.run(main())
"""
"""Provisions the bus, and writes facts and a record until a line comes in; then compares what is stored."""


def lacking() -> str:
    if os.geteuid() != 0 or engine.missing_programs():
        return "no podman, or not root"
    there = engine.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    return f"no images {', '.join(IMAGES.values())}" if set(IMAGES.values()) - set(there) else ""


class Pods:
    """The pods of the chart's StatefulSet, as containers of one network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = f"slipway-pods-{secrets.token_hex(4)}"
        workload = find("three-servers", "StatefulSet", "slipway-nats")
        self.service = workload["spec"]["serviceName"]
        (self.container,) = workload["spec"]["template"]["spec"]["containers"]
        self.names = [f"slipway-nats-{number}" for number in range(workload["spec"]["replicas"])]
        self.keys = KeyFolder(folder / "keys")
        hosts = [self.service, *(f"{name}.{self.service}" for name in self.names)]
        arguments = [word for host in hosts for word in ("--host", host)]
        program = [sys.executable, "-m", "clients.cli.main", "keys"]
        for more in (["init", *arguments, "--store-host", "store"], ["add", "admin", "--role", "administrator"]):
            command = [*program, *more, "--folder", str(self.keys.path)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
        text = find("three-servers", "ConfigMap", self.service)["data"]["cluster.conf"]
        (folder / "cluster.conf").write_text(text)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER)

    def own(self, name: str) -> str:
        """Return the name of a pod's container: podman's names are not apart by network."""
        return f"{self.network}-{name}"

    def start(self, name: str) -> None:
        """Start a pod with the address that its network gives it now; its volume stays."""
        values = {
            each["name"]: each.get("value", name).replace("$(SLIPWAY_NATS_NAME)", name)
            for each in self.container["env"]
        }
        variables = [word for key, value in values.items() for word in ("--env", f"{key}={value}")]
        aliases = ",".join(f"alias={alias}" for alias in (f"{name}.{self.service}", self.service))
        mounts = {
            f"{self.own(name)}-data": "/data:U", self.keys.server_config.parent: "/etc/nats/bus:ro",
            self.keys.path: "/etc/nats/trust:ro", self.folder / "cluster.conf": "/etc/nats/cluster.conf:ro",
        }  # fmt: skip
        volumes = [word for source, target in mounts.items() for word in ("--volume", f"{source}:{target}")]
        engine.podman(
            "run", "--detach", "--name", self.own(name), "--hostname", name, "--network", f"{self.network}:{aliases}",
            "--user", f"{USER}:{USER}", "--read-only", "--cap-drop", "all", *variables, *volumes, IMAGES["nats"],
            *self.container["args"],
        )  # fmt: skip

    def is_whole(self, name: str) -> bool:
        """Ask the startup probe of a pod: of all streams."""
        probe = self.container["startupProbe"]["httpGet"]
        url = f"http://127.0.0.1:8222{probe['path']}"
        return "ok" in engine.podman(
            "exec", self.own(name), "python", "-c",
            f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=5).read().decode())", check=False,
        )  # fmt: skip

    def address(self, name: str) -> str:
        return engine.podman("inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{self.network}").IPAddress}}}}',
                             self.own(name)).strip()  # fmt: skip

    def replace(self, name: str) -> None:
        """End a pod in order, and start it again at another address, once it was removed."""
        before = self.address(name)
        engine.podman("stop", "--time", "60", self.own(name))
        engine.podman("rm", self.own(name))
        self.start(name)
        assert self.address(name) != before, "a pod comes back with another address"
        wait_for(lambda: self.is_whole(name), HEALTHY_S, f"health of {name}")


@pytest.fixture
def pods(tmp_path):
    if why := lacking():
        pytest.skip(why)
    made = Pods(tmp_path)
    engine.podman("network", "create", "--internal", made.network)
    try:
        for name in made.names:
            made.start(name)
        for name in made.names:
            wait_for(lambda name=name: made.is_whole(name), HEALTHY_S, f"health of {name}")
        yield made
    finally:
        left = [made.own(name) for name in (*made.names, "writer")]
        engine.podman("rm", "--force", "--ignore", "--time", "2", *left, check=False)
        engine.podman("volume", "rm", "--force", *(f"{each}-data" for each in left[:-1]), check=False)
        engine.podman("network", "rm", "--force", made.network, check=False)


@contextlib.contextmanager
def writer(pods):
    command = [
        "podman", "run", "--rm", "--interactive", "--name", pods.own("writer"), "--network", pods.network,
        "--volume", f"{ROOT}:/code:ro", "--workdir", "/code", "--volume", f"{pods.keys.path}:/keys:ro",
        "--env", f"SLIPWAY_NATS_URL=tls://{pods.service}:4222", "--env", "SLIPWAY_NATS_CA=/keys/ca.pem",
        IMAGES["prepare"], "python", "-c", WRITER,
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process, key):
    """Return the next line of the writer that has this key."""
    for line in process.stdout:
        if key in (record := json.loads(line)):
            return record
    raise AssertionError(f"the writer ended before it said {key}")


@pytest.mark.skipif(shutil.which("podman") is None, reason="no podman")
def test_each_of_the_charts_servers_is_replaced_under_its_name_while_nothing_that_was_written_is_lost(pods):
    with writer(pods) as process:
        next_line(process, "writing")
        for name in pods.names:
            pods.replace(name)
            before = next_line(process, "written")["written"]
            while next_line(process, "written")["written"] < before + WRITES:
                pass
        process.stdin.write("\n")
        process.stdin.flush()
        result = next_line(process, "lost")
    print(f"{result['acknowledged']} facts, {result['changes']} changes of a record")
    assert (result["lost"], result["twice"]) == ([], [])
    assert result["changes"] == result["stored"]
    assert result["acknowledged"] > WRITES * len(pods.names)
