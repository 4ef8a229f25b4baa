"""The Helm chart: three servers of the bus, what their names are, and what makes telemetry's stream again."""

import re
import shlex
import subprocess

import pytest
from typer.testing import CliRunner

from clients.cli.commands.installation.keys import keys_app
from deploy.docker.provisioner import LOOKED, STAMP
from deploy.identity.key_folder import KeyFolder
from testbed.servers import BIN
from tests.kit.charts.cases import CASES
from tests.kit.charts.rendered import OF_THE_BUS, environment, find, objects, pod_volumes, pods
from tests.kit.tls import accepts
from tests.kit.wiring import ROOT


def routes_of(text):
    """Return the hosts that a server's configuration has routes to."""
    return re.findall(r"nats://([^:]+):6222", text)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the keys that the command of docs/kubernetes.md makes for three servers."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    section = page.partition("### Three servers of the bus")[2].partition("\n## ")[0]
    (command,) = re.findall(r"^slipway keys (init (?:[^\n]*\\\n)*[^\n]*)$", section, re.MULTILINE)
    folder = tmp_path_factory.mktemp("installed") / "keys"
    arguments = [str(folder) if each == "keys" else each for each in shlex.split(command.replace("\\\n", " "))]
    assert CliRunner().invoke(keys_app, arguments, catch_exceptions=False).exit_code == 0
    return KeyFolder(folder)


def test_each_of_the_three_has_the_configuration_of_the_container_and_routes_to_the_names_of_the_pods(
    installed, tmp_path
):
    """As the server itself reads it, with the keys of an installation and the files where the pod has them."""
    (container,) = find("three-servers", "StatefulSet", "slipway-nats")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["nats-server", "--config=/etc/nats/cluster.conf"]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/etc/nats/bus", "/etc/nats/trust", "/etc/nats/cluster.conf"} <= mounts
    text = find("three-servers", "ConfigMap", "slipway-nats")["data"]["cluster.conf"]
    assert routes_of(text) == [f"slipway-nats-{number}.slipway-nats" for number in range(3)]
    (tmp_path / "bus").symlink_to(installed.server_config.parent)
    (tmp_path / "trust").symlink_to(installed.path)
    for file, content in (("cluster", text), ("slipway", (ROOT / "deploy/docker/nats.conf").read_text())):
        (tmp_path / f"{file}.conf").write_text(content.replace("/etc/nats/", f"{tmp_path}/"))
    variables = {
        each["name"]: each.get("value", "slipway-nats-0").replace("$(SLIPWAY_NATS_NAME)", "slipway-nats-0")
        for each in container["env"]
    }
    assert set(variables) == set(OF_THE_BUS)
    command = [str(BIN / "nats-server"), "--config", str(tmp_path / "cluster.conf"), "-t"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_clients_take_the_certificate_of_the_documented_command_under_each_name_that_they_learn(installed):
    """Clients check the name that a server advertises: one that is not covered is never connected to."""
    workload = find("three-servers", "StatefulSet", "slipway-nats")
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    (advertised,) = (each["value"] for each in container["env"] if each["name"] == "SLIPWAY_NATS_ADVERTISE")
    pods_of = [f"slipway-nats-{number}" for number in range(workload["spec"]["replicas"])]
    hosts = [advertised.replace("$(SLIPWAY_NATS_NAME)", pod).removesuffix(":4222") for pod in pods_of]
    hosts += routes_of(find("three-servers", "ConfigMap", "slipway-nats")["data"]["cluster.conf"])
    url = environment("three-servers", "Deployment", "registry")["SLIPWAY_NATS_URL"]
    hosts.append(url.removeprefix("tls://").removesuffix(":4222"))
    assert len(set(hosts)) == 4, "three pods, and the service"
    certificate, key = installed.certificate, installed.certificate_key
    assert [host for host in hosts if not accepts(installed.authority, certificate, key, host)] == []
    assert not accepts(installed.authority, certificate, key, "slipway-nats-3.slipway-nats")


def test_autoscaling_finds_the_leader_among_the_servers_of_the_chart_by_their_names():
    """KEDA asks `SERVER.ENDPOINT`; a server's name is that of its pod."""
    scaled = [each for each in objects("three-servers") if each["kind"] == "ScaledObject"]
    endpoints = {
        trigger["metadata"]["natsServerMonitoringEndpoint"] for each in scaled for trigger in each["spec"]["triggers"]
    }
    assert endpoints == {"slipway-nats.slipway.svc:8222"}


@pytest.mark.parametrize("case", CASES)
def test_what_makes_lost_telemetry_again_runs_beside_the_services_and_is_probed(case):
    """By the stamps that the program writes: the last try, and the last look that found everything."""
    name = f"{CASES[case].get('nameOverride', 'slipway')}-provisioner"
    workload = find(case, "Deployment", name)
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "deploy.docker.provisioner"]
    for probe, stamp in (("startupProbe", LOOKED), ("livenessProbe", LOOKED), ("readinessProbe", STAMP.name)):
        assert f'gettempdir() + "/{stamp}")' in container[probe]["exec"]["command"][-1], probe
    settings = {each["name"]: each["value"] for each in container["env"]}
    (prepared,) = (pod for owner, pod in pods(case) if owner.startswith("Job/") and "-prepare" in owner)
    same = {each["name"]: each["value"] for each in prepared["containers"][0]["env"]}
    assert settings.items() <= same.items(), "the streams that it makes are those of `prepare`"
    assert {"SLIPWAY_REPLICAS", "SLIPWAY_EVENTS_MAX_BYTES"} <= set(settings)
    secret = next(each["secret"] for each in pod_volumes(workload) if each["name"] == "secrets")
    assert secret["items"] == [{"key": "credential", "path": "credential"}], "not the key of the store"
    assert find(case, "PodDisruptionBudget", name)["spec"]["selector"] == workload["spec"]["selector"]
