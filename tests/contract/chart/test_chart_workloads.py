"""The Helm chart: how its workloads run, the settings that they get, and how they are scaled and monitored."""

import re

import pytest
import yaml

from contracts.services import OPTIONAL, SERVICES
from tests.kit.charts.cases import CASES
from tests.kit.charts.client import CHART
from tests.kit.charts.rendered import OF_THE_BUS, containers, environment, find, objects, pods
from tests.kit.wiring import ROOT


def test_optional_services_are_started_only_if_they_are_enabled():
    for name in OPTIONAL:
        assert f"slipway-{name}" not in {each["metadata"]["name"] for each in objects("external")}


def test_an_upgrade_of_the_chart_alone_restarts_no_pod():
    """A pod's template holds no version but its image's, so that a pinned Triton keeps its models."""
    for name, pod in pods("external"):
        assert "helm.sh" not in str(pod), name
    template = find("everything", "StatefulSet", "slipway-triton")["spec"]["template"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(template["metadata"]["labels"])
    assert len({each["image"] for each in template["spec"]["containers"] + template["spec"]["initContainers"]}) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_a_workload_of_its_own_that_is_probed_and_drained(name):
    (workload,) = (
        each
        for each in objects("everything")
        if each["kind"] in {"Deployment", "StatefulSet"} and each["metadata"]["name"] == f"slipway-{name}"
    )
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    port = "admin" if name == "gateway" else "http"
    assert (
        container["startupProbe"]["httpGet"]
        == container["livenessProbe"]["httpGet"]
        == {"path": "/healthz", "port": port}
    )
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}
    assert port in {each["name"] for each in container["ports"]}
    assert "time.sleep(10)" in container["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert pod["terminationGracePeriodSeconds"] >= 10 + 30
    assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    budget = find("everything", "PodDisruptionBudget", f"slipway-{name}")
    assert budget["spec"]["selector"] == workload["spec"]["selector"]
    assert budget["spec"]["maxUnavailable"] == 1, "a budget that lets no pod go blocks the drain of a node"


def test_a_gateway_has_time_for_the_streams_in_flight():
    from services.gateway.settings import GatewaySettings

    pod = find("external", "StatefulSet", "slipway-gateway")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 10 + GatewaySettings.model_fields["drain_s"].default


def test_prepare_comes_before_the_services_unless_its_servers_are_of_the_same_release():
    job = find("everything", "Job", "slipway-prepare")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    weight = int(job["metadata"]["annotations"]["helm.sh/hook-weight"])
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume} - {"collector"}
    needed = [("ServiceAccount", pod["serviceAccountName"]), ("NetworkPolicy", "slipway-prepare")]
    needed += [("ExternalSecret", f"slipway-secret-{secret.removeprefix('slipway-')}") for secret in secrets]
    for which in needed:
        annotations = find("everything", *which)["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade", which
        assert int(annotations["helm.sh/hook-weight"]) < weight, which
    with_servers = find("trial", "Job", "slipway-prepare-1")
    assert "annotations" not in with_servers["metadata"], "a hook would wait for servers that come after it"


def test_the_pod_of_the_command_line_is_that_of_the_test_but_for_its_command():
    """The pod of docs/kubernetes.md: `helm test` reaches bus and store, and so does what has its labels and mounts."""
    pod = yaml.safe_load((ROOT / "deploy/helm/cli.yaml").read_text())
    smoke = find("trial", "Pod", "slipway-smoke")
    assert pod["metadata"]["labels"] == smoke["metadata"]["labels"]
    differs = {"activeDeadlineSeconds", "terminationGracePeriodSeconds", "containers"}
    assert {key: value for key, value in pod["spec"].items() if key not in differs} == {
        key: value for key, value in smoke["spec"].items() if key not in differs
    }
    (here,), (there,) = pod["spec"]["containers"], smoke["spec"]["containers"]
    differs = {"name", "command", "args"}
    assert {key: value for key, value in here.items() if key not in differs} == {
        key: value for key, value in there.items() if key not in differs
    }


def test_the_page_names_the_hosts_that_signed_addresses_have_for_publishing_from_outside():
    """The registry signs uploads for its own name of the store; under another one they are refused."""
    settings = environment("trial", "Deployment", "registry")
    hosts = {settings["SLIPWAY_NATS_URL"].removeprefix("tls://"), settings["SLIPWAY_S3_ENDPOINT"]}
    page = (ROOT / "docs/kubernetes.md").read_text()
    (line,) = re.findall(r"127\.0\.0\.1 (.*)' \| sudo tee", page)
    assert set(line.split()) == {host.partition(":")[0] for host in hosts}
    assert "services.registry.env.REGISTRY_UPLOAD_ENDPOINT" in page


def test_server_manager_follows_a_triton_whose_volume_one_node_mounts():
    close = find("external", "Deployment", "slipway-server-manager")["spec"]["template"]["spec"]
    (term,) = close["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    triton = find("external", "StatefulSet", "slipway-triton")["spec"]["template"]
    assert term["labelSelector"]["matchLabels"].items() <= triton["metadata"]["labels"].items()
    assert "affinity" not in find("everything", "Deployment", "slipway-server-manager")["spec"]["template"]["spec"]
    claims = [
        {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        for pod in (close, triton["spec"])
    ]
    assert claims == [{"slipway-serving"}] * 2


@pytest.mark.parametrize("case", CASES)
def test_no_pod_must_be_both_on_one_host_and_spread_over_hosts(case):
    """The second replica of such a pod would never be scheduled, and neither would the pod that replaces the first."""
    for name, pod in pods(case):
        required = (
            pod.get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
        )
        spread = [each["topologyKey"] for each in pod.get("topologySpreadConstraints", [])]
        assert not {each["topologyKey"] for each in required} & set(spread), name


def test_credentials_for_orders_at_the_console_come_from_the_store_of_secrets_where_they_are_asked_for():
    secret = find("everything", "ExternalSecret", "slipway-secret-console-orders")["spec"]
    assert secret["target"]["name"] == "slipway-console-orders"
    for case, optional in (("everything", False), ("external", True)):
        pod = find(case, "StatefulSet", "slipway-console")["spec"]["template"]["spec"]
        (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == "orders")
        assert (volume["secretName"], volume["optional"]) == ("slipway-console-orders", optional)


def test_settings_are_ones_that_the_services_know():
    from deploy.documentation.settings_page import settings_classes, variables_of

    known = {name for kind in settings_classes() for name in variables_of(kind)} | {
        "SLIPWAY_TRITON_ADMIN_KEY",
        *OF_THE_BUS,
    }
    for case in CASES:
        for name, container in containers(case):
            assert {each["name"] for each in container.get("env", [])} <= known, name


def test_no_setting_is_given_twice_and_those_of_the_chart_are_refused_in_values():
    text = (CHART / "templates/_checks.tpl").read_text()
    refused = set(re.findall(r"^- ([A-Z0-9_]+)$", text, re.MULTILINE))
    for case in CASES:
        for name, container in containers(case):
            names = [each["name"] for each in container.get("env", [])]
            assert len(set(names)) == len(names), name
            if case == "external":
                assert set(names) - {"GATEWAY_BEHIND_PROXY"} <= refused, name


def test_scaled_services_are_scaled_by_consumers_that_exist():
    from shared.messaging import topology

    durables = {(stream, config.durable_name) for stream, config in topology.consumers()}
    scaled = [each for each in objects("everything") if each["kind"] == "ScaledObject"]
    assert {each["metadata"]["name"] for each in scaled} == {
        f"slipway-{name}" for name in ("merger", "quantiser", "benchmarker", "monitor", "gateway")
    }
    for each in scaled:
        target = each["spec"]["scaleTargetRef"]
        workload = find("everything", target["kind"], target["name"])
        assert "replicas" not in workload["spec"], "an upgrade would set what KEDA has chosen back"
        for trigger in each["spec"]["triggers"]:
            assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes texts"
            if trigger["type"] == "nats-jetstream":
                assert (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) in durables


def test_rules_and_dashboards_are_those_of_the_one_source():
    rule = find("everything", "PrometheusRule", "slipway-monitoring")["spec"]
    assert rule == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    boards = {path.stem for path in (ROOT / "deploy/grafana").glob("*.json")}
    named = {each["metadata"]["name"] for each in objects("everything") if "-dashboard-" in each["metadata"]["name"]}
    assert named == {f"slipway-dashboard-{board}" for board in boards}
