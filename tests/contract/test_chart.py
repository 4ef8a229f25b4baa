"""The Helm chart: rendered by Helm with values that people would use; valid, closed, complete, and honest about bad values."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from contracts.services import OPTIONAL, SERVICES
from contracts.store_access import SERVICE_ACCESS
from contracts.version import VERSION
from tests.kit.charts.cases import BROKEN, CASES, REFUSED
from tests.kit.charts.client import CHART, answers
from tests.kit.wiring import ROOT

GOLDEN = ROOT / "tests/contract/chart"
RENDERED = {
    "external": [("StatefulSet", "slipway-gateway"), ("NetworkPolicy", "slipway-rollback-controller")],
    "everything": [("ScaledObject", "slipway-quantiser"), ("Job", "slipway-prepare")],
}
"""Objects whose whole text is kept, by case; of the others the list of kinds and names."""


def objects(case: str) -> list[dict[str, Any]]:
    return answers()["cases"][case]["objects"]


def find(case: str, kind: str, name: str) -> dict[str, Any]:
    (match,) = (each for each in objects(case) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return match


def pods(case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod and template of a pod, with the name of what makes it."""
    for each in objects(case):
        if each["kind"] == "Pod":
            yield f"Pod/{each['metadata']['name']}", each["spec"]
        spec = each.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if isinstance(spec, dict) and "template" in spec and "spec" in spec["template"]:
            yield f"{each['kind']}/{each['metadata']['name']}", spec["template"]["spec"]


def containers(case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(case):
        for container in pod["containers"] + pod.get("initContainers", []):
            yield f"{name}/{container['name']}", container


# -- what Helm, Kubernetes and its extensions say -----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_for_three_versions_of_kubernetes_and_for_the_extensions(case):
    assert len(objects(case)) > 30
    assert answers()["cases"][case]["problems"] == []


@pytest.mark.parametrize("case", CASES)
def test_lint_has_nothing_to_say(case):
    report = answers()["cases"][case]["lint"]
    assert report["total_charts_linted"] == 1
    assert (report["messages"], report["errors"]) == ([], [])


@pytest.mark.parametrize("name", BROKEN)
def test_the_validators_refuse_what_is_wrong(name):
    assert answers()["broken"][name]


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused_with_the_reason(name):
    assert REFUSED[name][1] in answers()["refused"][name]


@pytest.mark.parametrize("case", CASES)
def test_the_objects_are_those_that_were_agreed(case):
    """After a change on purpose: `python -m tests.kit.charts.golden`, and look at the difference."""
    listed = [f"{each['kind']} {each['metadata']['name']}" for each in objects(case)]
    assert (GOLDEN / f"{case}.txt").read_text().splitlines() == sorted(listed)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("case", RENDERED)
def test_the_text_of_some_is_what_was_agreed(case):
    agreed = list(yaml.safe_load_all((GOLDEN / f"{case}.yaml").read_text()))
    assert agreed == [find(case, *which) for which in RENDERED[case]]


def test_the_chart_has_the_version_of_the_code():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


# -- closed: the pod security standard "restricted", and more --------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case):
    templates = list(pods(case))
    assert len(templates) > 8
    for name, pod in templates:
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod), name
        allowed = {"secret", "emptyDir", "persistentVolumeClaim", "ephemeral", "configMap", "projected"}
        assert {kind for volume in pod["volumes"] for kind in volume} - {"name"} <= allowed, name
        assert pod["automountServiceAccountToken"] is False, name
        account = find(case, "ServiceAccount", pod["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", CASES)
def test_every_container_is_closed_and_bounded(case):
    for name, container in containers(case):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["privileged"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert "memory" in container["resources"]["limits"], name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert not [port for port in container.get("ports", []) if "hostPort" in port], name
        assert ":latest" not in container["image"], name


def test_images_come_from_the_given_registry_by_digest_where_one_is_given():
    images = {name.split("/")[-1]: container["image"] for name, container in containers("everything")}
    assert images["gateway"] == "registry.example.org/slipway/slipway-gateway@sha256:" + "a" * 64
    assert images["registry"] == "registry.example.org/slipway/slipway-registry:0.1.0"
    assert {image.split("/")[0] for image in images.values()} == {"registry.example.org"}


@pytest.mark.parametrize("case", CASES)
def test_secrets_are_files_but_for_the_key_of_triton_and_what_the_values_name(case):
    """Triton takes its key on the command line only."""
    named = {
        (setting, reference["key"])
        for service in CASES[case].get("services", {}).values()
        for setting, reference in service.get("secretEnv", {}).items()
    }
    by_environment = {
        (variable["name"], variable["valueFrom"]["secretKeyRef"]["key"])
        for _, container in containers(case)
        for variable in container.get("env", [])
        if "valueFrom" in variable
    }
    assert named <= by_environment
    by_environment -= named
    assert {key for _, key in by_environment} == {"admin-key"}
    assert {name for name, _ in by_environment} <= {"SLIPWAY_TRITON_ADMIN_KEY", "TRITON_AGENT_ADMIN_KEY"}


@pytest.mark.parametrize("case", CASES)
def test_only_triton_and_its_agent_have_the_key_of_model_control(case):
    holders = {name.split("/")[-1] for name, container in containers(case) if "admin-key" in str(container)}
    assert holders - {"triton"} == {"agent"}


def test_the_agent_is_reached_by_server_manager_only_and_keeps_the_highest_term():
    assert admitted("trial", "agent") == {"server-manager"}
    (rule,) = find("trial", "NetworkPolicy", "slipway-agent")["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == [8003]
    agent = find("external", "StatefulSet", "slipway-agent")["spec"]
    assert agent["replicas"] == 1, "two would not know of each other's terms"
    (container,) = agent["template"]["spec"]["containers"]
    settings = {each["name"]: each.get("value") for each in container["env"]}
    claims = [claim["metadata"]["name"] for claim in agent["volumeClaimTemplates"]]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[settings["TRITON_AGENT_TERM_FILE"].removesuffix("/term.json")] in claims


# -- who talks to whom -----------------------------------------------------------------------------------------------------


def component(peer: dict[str, Any]) -> str:
    return peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component", "")


def reached(case: str, name: str) -> set[str]:
    """The components that the policy of one lets it reach."""
    rules = find(case, "NetworkPolicy", f"slipway-{name}")["spec"].get("egress", [])
    return {component(peer) for rule in rules for peer in rule.get("to", [])} - {""}


def admitted(case: str, name: str) -> set[str]:
    """The components that the policy of one lets in."""
    rules = find(case, "NetworkPolicy", f"slipway-{name}")["spec"].get("ingress", [])
    return {component(peer) for rule in rules for peer in rule["from"]} - {""}


def test_services_reach_what_their_contracts_name_and_nothing_else():
    started = [name for name, contract in SERVICES.items() if name not in {"mirror", "notifier"}]
    for name in started:
        expected = {"nats", *(set(SERVICES[name].calls) - {"outside"})} | (
            {"store"} if name in SERVICE_ACCESS else set()
        )
        assert reached("trial", name) == expected, name
    assert reached("trial", "triton") == reached("trial", "nats") == reached("trial", "store") == set()
    assert reached("trial", "prepare") == {"nats", "store"}


def test_who_is_reached_lets_in_exactly_those_that_reach_it():
    names = [
        each["metadata"]["name"].removeprefix("slipway-")
        for each in objects("trial")
        if each["kind"] == "NetworkPolicy"
    ]
    for name in names:
        callers = {other for other in names if name in reached("trial", other)}
        assert admitted("trial", name) == callers, name


@pytest.mark.parametrize("name", SERVICES)
def test_only_those_that_fetch_or_notify_have_a_way_outside(name):
    rules = find("everything", "NetworkPolicy", f"slipway-{name}")["spec"]["egress"]
    outside = [peer for rule in rules for peer in rule.get("to", []) if "ipBlock" in peer]
    assert bool(outside) == ("outside" in SERVICES[name].calls)
    assert all("10.0.0.0/8" in peer["ipBlock"]["except"] for peer in outside)


def rules_to(case: str, name: str, port: int) -> list[dict[str, Any]]:
    """The rules of one's policy that let it reach a port."""
    rules = find(case, "NetworkPolicy", f"slipway-{name}")["spec"].get("egress", [])
    return [rule for rule in rules if port in [each["port"] for each in rule["ports"]]]


@pytest.mark.parametrize("name", [*SERVICES, "prepare", "smoke", "backup", "triton"])
def test_everything_that_sends_spans_reaches_the_collector_and_nothing_else_at_its_port(name):
    assert [rule["to"] for rule in rules_to("everything", name, 4318)] == [CASES["everything"]["network"]["collector"]]


def test_without_an_address_of_a_collector_nothing_is_let_through_to_one():
    policies = [each for each in objects("trial") if each["kind"] == "NetworkPolicy"]
    assert len(policies) > 12
    assert "4318" not in str(policies)


def test_the_engine_sends_its_spans_to_the_collector_of_the_services():
    (container,) = find("everything", "StatefulSet", "slipway-triton")["spec"]["template"]["spec"]["containers"]
    names = {each["name"]: each.get("value") for each in container["env"]}
    assert names["SLIPWAY_OTLP_ENDPOINT"] == "http://collector:4318"
    assert "SLIPWAY_LOG_LEVEL" not in names, "a change of it would restart Triton, which loses its models"
    assert rules_to("everything", "triton", 53), "the collector has a name"
    assert "egress" not in find("trial", "NetworkPolicy", "slipway-triton")["spec"]


@pytest.mark.parametrize(
    ("case", "bus", "store"),
    [
        ("external", [4222], 9000),
        ("production", [4222], 443),
        ("own-triton", [4223, 4222], 443),
        ("everything", [4222], 9443),
    ],
)
def test_policies_open_the_ports_of_the_addresses_unless_they_are_named(case, bus, store):
    """A policy counts after the translation of a service's port, so that a port can be named: `everything`."""
    for name in ("registry", "prepare"):
        (rule,) = rules_to(case, name, bus[0])
        assert [each["port"] for each in rule["ports"]] == bus, name
        assert rules_to(case, name, store), name
        assert store == 9000 or not rules_to(case, name, 9000), name


def test_the_backup_reaches_the_port_of_its_server_and_trusts_its_authority():
    assert rules_to("everything", "backup", 8443)
    pod = find("everything", "CronJob", "slipway-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    settings = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert settings["SLIPWAY_BACKUP_S3_CA"] == "/run/secrets/slipway/backup-ca.pem"
    assert settings["SLIPWAY_BACKUP_S3_REGION"] == "eu-central-1"


def test_compose_draws_the_same_lines():
    """The networks of compose.yaml, which were drawn by hand, join the same parts."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, contract in SERVICES.items():
        networks = set(compose[name]["networks"])
        assert ("serving" in networks) == ("triton" in contract.calls), name
        assert ("outgoing" in networks) == ("outside" in contract.calls), name
        assert ("store" in networks) == (name in SERVICE_ACCESS), name
        assert ("public" in networks) == ("gateway" in contract.calls or name == "gateway"), name


# -- how it runs -----------------------------------------------------------------------------------------------------------


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
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
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


def environment(case: str, kind: str, name: str) -> dict[str, Any]:
    (container,) = find(case, kind, f"slipway-{name}")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


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

    known = {name for kind in settings_classes() for name in variables_of(kind)} | {"SLIPWAY_TRITON_ADMIN_KEY"}
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


# -- scaling and monitoring ------------------------------------------------------------------------------------------------


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
