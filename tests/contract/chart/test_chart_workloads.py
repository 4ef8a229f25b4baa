"""The Helm chart: how its workloads run, the settings that they get, and how they are scaled and monitored."""

import re
import subprocess

import pytest
import yaml

from contracts.services import OPTIONAL, SERVICES
from deploy.docker.provisioner import LOOKED, STAMP
from deploy.identity.certificates import hosts_of
from deploy.identity.key_folder import KeyFolder
from shared.runtime.clock import SystemClock
from testbed.servers import BIN
from tests.kit.charts.cases import CASES, PLACED
from tests.kit.charts.client import CHART
from tests.kit.charts.rendered import containers, environment, find, objects, pod_volumes, pods
from tests.kit.wiring import ROOT

OF_THE_BUS = ("SLIPWAY_NATS_NAME", "SLIPWAY_NATS_ADVERTISE")
"""Variables of the bus's servers, which only their configuration reads."""


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


@pytest.mark.parametrize("name", ["gateway", "triton", "agent", "prepare", "provisioner", "backup", "smoke"])
def test_the_affinity_of_the_values_is_that_of_the_pod(name):
    (pod,) = (pod for owner, pod in pods("everything") if owner.endswith(f"/slipway-{name}"))
    assert pod["affinity"] == PLACED["affinity"]


def test_three_servers_of_the_bus_are_a_cluster_that_one_of_them_may_leave():
    workload = find("three-servers", "StatefulSet", "slipway-nats")
    assert workload["spec"]["replicas"] == 3
    assert workload["spec"]["podManagementPolicy"] == "Parallel", "none becomes ready before another one is there"
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz", "of all streams: the next one is replaced then"
    assert [each["whenUnsatisfiable"] for each in pod["topologySpreadConstraints"]] == ["DoNotSchedule"] * 2
    service = find("three-servers", "Service", workload["spec"]["serviceName"])["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    budget = find("three-servers", "PodDisruptionBudget", "slipway-nats")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, workload["spec"]["selector"])
    (job,) = (pod for name, pod in pods("three-servers") if name.startswith("Job/slipway-prepare"))
    assert {"name": "SLIPWAY_REPLICAS", "value": "3"} in job["containers"][0]["env"]


def test_each_of_the_three_has_the_configuration_of_the_container_and_routes_to_the_names_of_the_pods(tmp_path):
    """As the server itself reads it, with the keys of an installation and the files where the pod has them."""
    (container,) = find("three-servers", "StatefulSet", "slipway-nats")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["nats-server", "--config=/etc/nats/cluster.conf"]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/etc/nats/bus", "/etc/nats/trust", "/etc/nats/cluster.conf"} <= mounts
    text = find("three-servers", "ConfigMap", "slipway-nats")["data"]["cluster.conf"]
    names = [f"slipway-nats-{number}.slipway-nats" for number in range(3)]
    assert re.findall(r"nats://([^:]+):6222", text) == names
    keys = KeyFolder(tmp_path / "keys")
    keys.prepare(["slipway-nats", "*.slipway-nats"], SystemClock().now())
    assert set(hosts_of(keys.certificate.read_bytes())) == {"slipway-nats", "*.slipway-nats"}
    (tmp_path / "bus").symlink_to(keys.server_config.parent)
    (tmp_path / "trust").symlink_to(keys.path)
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


def test_autoscaling_finds_the_leader_among_the_servers_of_the_chart_by_their_names():
    """KEDA asks `SERVER.ENDPOINT`; a server's name is that of its pod."""
    scaled = [each for each in objects("three-servers") if each["kind"] == "ScaledObject"]
    endpoints = {
        trigger["metadata"]["natsServerMonitoringEndpoint"] for each in scaled for trigger in each["spec"]["triggers"]
    }
    assert endpoints == {"slipway-nats.slipway.svc:8222"}


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


def test_the_test_is_a_pod_that_ends_by_itself_before_its_deadline():
    """`helm test --logs` shows the logs of pods only."""
    pod = find("external", "Pod", "slipway-smoke")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["args"] == ["slipway-smoke", "--timeout=1740"]
    assert pod["spec"]["activeDeadlineSeconds"] == 1800


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


@pytest.mark.parametrize("case", ["external", "production", "trial"])
def test_server_manager_tolerates_what_triton_tolerates_where_it_must_run_on_its_node(case):
    manager = find(case, "Deployment", "slipway-server-manager")["spec"]["template"]["spec"]
    triton = find(case, "StatefulSet", "slipway-triton")["spec"]["template"]["spec"]
    assert "podAffinity" in manager["affinity"]
    assert manager["tolerations"] == triton["tolerations"] != []


def test_server_manager_tolerates_no_taint_where_it_runs_on_any_node():
    assert "tolerations" not in find("everything", "Deployment", "slipway-server-manager")["spec"]["template"]["spec"]


def test_the_console_asks_the_gateway_and_trusts_the_authority_of_its_certificate():
    assert environment("trial", "StatefulSet", "console")["CONSOLE_GATEWAY_URL"] == "http://slipway-gateway:8080"
    with_tls = environment("everything", "StatefulSet", "console")
    assert with_tls["CONSOLE_GATEWAY_URL"] == "https://slipway-gateway:8080"
    assert with_tls["CONSOLE_GATEWAY_CA"] == "/run/tls/ca.crt"
    pod = find("everything", "StatefulSet", "slipway-console")["spec"]["template"]["spec"]
    (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == "tls")
    assert [each["key"] for each in volume["items"]] == ["ca.crt"], "not the gateway's key"
    assert "/run/tls" in {each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}


def test_a_secret_setting_comes_from_the_secret_that_the_values_name():
    settings = environment("everything", "StatefulSet", "console")
    reference = {"secretKeyRef": {"name": "sign-in", "key": "client-secret"}}
    assert settings["CONSOLE_OIDC_CLIENT_SECRET"] == reference


def test_credentials_for_orders_at_the_console_come_from_the_store_of_secrets_where_they_are_asked_for():
    secret = find("everything", "ExternalSecret", "slipway-secret-console-orders")["spec"]
    assert secret["target"]["name"] == "slipway-console-orders"
    for case, optional in (("everything", False), ("external", True)):
        pod = find(case, "StatefulSet", "slipway-console")["spec"]["template"]["spec"]
        (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == "orders")
        assert (volume["secretName"], volume["optional"]) == ("slipway-console-orders", optional)


@pytest.mark.parametrize(
    ("case", "name"),
    [("external", "1 x NVIDIA H100"), ("own-triton", "2 x NVIDIA L40S"), ("trial", "toy engine")],
)
def test_benchmarks_are_of_the_hardware_of_triton_and_not_of_the_benchmarkers_node(case, name):
    assert environment(case, "Deployment", "benchmarker")["BENCHMARKER_SERVING_HARDWARE"] == name


def test_a_gpu_is_asked_for_unless_the_engine_is_the_toy():
    triton = find("everything", "StatefulSet", "slipway-triton")["spec"]["template"]["spec"]
    assert triton["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert [each["key"] for each in triton["tolerations"]] == ["nvidia.com/gpu"]
    toy = find("trial", "StatefulSet", "slipway-triton")["spec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in toy["resources"]["limits"]
    assert "command" not in toy, "the image's own"


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
                assert set(names) - {"GATEWAY_TRUSTED_PROXIES"} <= refused, name


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


def test_thresholds_follow_from_measured_service_times():
    from deploy.helm.scaling import SCALED

    assert {name: work.lag for name, work in SCALED.items()} == {
        "merger": 4,
        "quantiser": 2,
        "benchmarker": 1,
        "monitor": 115,
    }


def test_rules_and_dashboards_are_those_of_the_one_source():
    rule = find("everything", "PrometheusRule", "slipway-monitoring")["spec"]
    assert rule == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    boards = {path.stem for path in (ROOT / "deploy/grafana").glob("*.json")}
    named = {each["metadata"]["name"] for each in objects("everything") if "-dashboard-" in each["metadata"]["name"]}
    assert named == {f"slipway-dashboard-{board}" for board in boards}
