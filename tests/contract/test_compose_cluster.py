"""The cluster of containers: three servers of the bus, and a second one of each part that is the first one's equal."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from contracts.services import SERVICES
from deploy.identity import bus_config
from deploy.identity.key_files import KeyFiles
from deploy.identity.key_folder import KeyFolder
from shared.runtime.clock import SystemClock
from testbed.containers.hosts.members import HOSTS, host_of
from testbed.servers import BIN

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy/docker"
TOY = ("compose.seaweedfs.yaml", "compose.toy.yaml", "compose.cluster.yaml", "compose.cluster.toy.yaml")
BUS = ["nats", "nats-b", "nats-c"]
URL = ",".join(f"tls://{name}:4222" for name in BUS)
ALONE = {"console", "mirror", "notifier"}
"""Services with one container also in the cluster."""
OWN = {
    "agent-b": {"environment", "volumes"},
    "gateway-b": {"ports", "volumes"},
    "rollback-controller-b": {"environment"},
    "triton-b": {"command", "deploy"},
}
"""What differs from the first one, by container."""


def resolved(*files: str) -> dict:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (Debian package docker-compose)")
    named = [word for file in (ROOT / "compose.yaml", *(DOCKER / name for name in files)) for word in ("-f", str(file))]
    profiles = [word for name in ("gpu", "tools", "mirror", "notifier") for word in ("--profile", name)]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "SLIPWAY_TRITON_ADMIN_KEY": "secret",
    }
    command = [program, "--env-file", "/dev/null", *named, *profiles, "config"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


@pytest.fixture(scope="module", params=[("compose.cluster.yaml",), TOY], ids=["gpu", "toy"])
def containers(request) -> dict:
    """Return the containers by their names, as docker-compose reads the files."""
    return resolved(*request.param)


def test_there_are_two_of_each_service_and_the_second_is_the_firsts_equal(containers):
    seconds = {name for name in containers if name.endswith("-b")} - {"nats-b"}
    assert seconds == {f"{name}-b" for name in {*SERVICES, "triton", "agent"} - ALONE}
    for name in seconds:
        first, second = containers[name.removesuffix("-b")], containers[name]
        differ = {key for key in {*first, *second} if first.get(key) != second.get(key)}
        assert differ == OWN.get(name, set()) - ({"deploy"} if "toy" in second["image"] else set()), name


def test_what_asks_the_bus_knows_all_three_servers_and_what_makes_streams_asks_for_three_copies(containers):
    urls = {
        name: each["environment"]["SLIPWAY_NATS_URL"]
        for name, each in containers.items()
        if "SLIPWAY_NATS_URL" in each.get("environment", {})
    }
    assert set(urls) >= {*SERVICES, "prepare", "provisioner", "cli"}
    assert set(urls.values()) == {URL}
    assert {name for name, each in containers.items() if each.get("environment", {}).get("SLIPWAY_REPLICAS")} == {
        "prepare",
        "provisioner",
    }
    assert {containers[name]["environment"]["SLIPWAY_REPLICAS"] for name in ("prepare", "provisioner")} == {"3"}
    assert set(BUS) <= set(containers["prepare"]["depends_on"])


def test_the_servers_of_the_bus_differ_in_name_and_volume_only(containers):
    first = containers["nats"]
    for name in BUS:
        server = containers[name]
        assert server["environment"] == {"SLIPWAY_NATS_NAME": name}
        (data,) = (volume["source"] for volume in server["volumes"] if volume["target"] == "/data")
        assert data == name
        rest = {key: value for key, value in server.items() if key not in {"environment", "volumes"}}
        assert rest == {key: value for key, value in first.items() if key not in {"environment", "volumes"}}
        assert not server.get("ports")


def test_the_servers_join_each_other_as_those_of_the_embedded_stack_do():
    written = re.sub(r"#.*", "", (ROOT / "deploy/docker/nats-cluster.conf").read_text())
    block = written[written.index("cluster {") :]
    generated = bus_config.cluster("0.0.0.0:6222", [f"{name}:6222" for name in BUS], KeyFiles(Path("/etc/nats")))
    mounted = generated.replace("/etc/nats/ca.pem", "/run/secrets/ca.pem")
    assert re.sub(r'[\s"]', "", block) == re.sub(r'[\s"]', "", mounted)


def test_each_triton_has_an_agent_and_a_repository_of_its_own_that_server_manager_names(containers):
    for name in ("server-manager", "server-manager-b"):
        settings = containers[name]["environment"]
        second = json.loads(settings["SERVER_MANAGER_ENDPOINTS"])["b"]
        assert (settings["SERVER_MANAGER_TRITON_GRPC"], second["triton_grpc"]) == ("triton:8001", "triton-b:8001")
        assert (settings["SERVER_MANAGER_AGENT_GRPC"], second["agent_grpc"]) == ("agent:8003", "agent-b:8003")
        assert second["repository"] in " ".join(containers["triton-b"]["command"])
        assert second["repository"] != settings["SERVER_MANAGER_REPOSITORY"]
        assert {second["repository"], settings["SERVER_MANAGER_REPOSITORY"]} <= set(
            containers["serving-folder"]["command"]
        )
    assert containers["agent-b"]["environment"]["TRITON_AGENT_TRITON_GRPC"] == "triton-b:8001"


def test_every_container_that_serves_is_on_one_host(containers):
    lasting = {name for name, each in containers.items() if each.get("restart") == "unless-stopped"}
    by_host = {host: {name for name in lasting if host_of(name) == host} for host in HOSTS}
    assert set().union(*by_host.values()) == lasting
    assert all(len(by_host[host] & set(BUS)) == 1 for host in HOSTS)
    assert {name.removesuffix("-b") for name in by_host["b"]} == by_host["a"] - ALONE


def test_the_configuration_is_that_of_one_server_with_encrypted_routes_between_the_three(tmp_path):
    """As the server itself reads it, with the keys of an installation."""
    keys = KeyFolder(tmp_path / "keys")
    keys.prepare(BUS, SystemClock().now())
    text = (DOCKER / "nats-cluster.conf").read_text()
    assert re.findall(r"nats://([\w-]+):6222", text) == BUS
    (tmp_path / "bus").symlink_to(keys.server_config.parent)
    (tmp_path / "slipway.conf").write_text(
        (DOCKER / "nats.conf").read_text().replace("/etc/nats/bus", f"{tmp_path}/bus")
    )
    text = text.replace("/etc/nats/bus", f"{tmp_path}/bus").replace("/run/secrets/ca.pem", str(keys.authority))
    (tmp_path / "cluster.conf").write_text(text)
    command = [str(BIN / "nats-server"), "--config", str(tmp_path / "cluster.conf"), "-t"]
    done = subprocess.run(
        command, env={"SLIPWAY_NATS_NAME": "nats-b"}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
