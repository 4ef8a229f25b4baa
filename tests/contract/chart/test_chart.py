"""The Helm chart: rendered by Helm with values that people would use; valid, closed, and honest about bad values."""

import re

import pytest
import yaml

from contracts.services import SERVICES
from contracts.storage.access import SERVICE_ACCESS
from contracts.version import VERSION
from tests.kit.charts.cases import BROKEN, CASES, REFUSED, UNSET
from tests.kit.charts.client import CHART, KSERVE, answers, filled
from tests.kit.charts.rendered import (
    GOLDEN,
    RENDERED,
    admitted,
    component,
    containers,
    find,
    objects,
    pods,
    reached,
    rules_to,
)
from tests.kit.wiring import ROOT

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


def test_the_example_for_kserve_is_valid_and_names_group_folder_and_version():
    assert answers()["examples"] == {"KServe": []}
    text = filled(KSERVE)
    assert f"name: support-bot-{KSERVE['GROUP']}\n" in text
    assert f"- {KSERVE['FOLDER']}\n" in text
    assert f"- --served-model-name={KSERVE['NAME']}\n" in text


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused_with_the_reason(name):
    assert REFUSED[name][1] in answers()["refused"][name]


@pytest.mark.parametrize("name", UNSET)
def test_defaults_may_be_unset(name):
    assert answers()["refused"][name] == ""


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
        if "secretKeyRef" in variable.get("valueFrom", {})
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


def test_services_reach_what_their_contracts_name_and_nothing_else():
    started = [name for name, contract in SERVICES.items() if name not in {"mirror", "notifier"}]
    for name in started:
        expected = {"nats", *(set(SERVICES[name].calls) - {"outside"})} | (
            {"store"} if name in SERVICE_ACCESS else set()
        )
        assert reached("trial", name) == expected, name
    assert reached("trial", "triton") == reached("trial", "nats") == reached("trial", "store") == set()
    assert reached("trial", "prepare") == {"nats", "store"}
    assert reached("trial", "provisioner") == {"nats"}


def test_servers_of_a_cluster_reach_each_other_at_the_port_of_routes_and_nothing_else():
    assert reached("three-servers", "nats") == {"nats"}
    (rule,) = rules_to("three-servers", "nats", 6222)
    assert [component(peer) for peer in rule["to"]] == ["nats"]
    rules = find("three-servers", "NetworkPolicy", "slipway-nats")["spec"]["ingress"]
    at_routes = [rule for rule in rules if 6222 in [each["port"] for each in rule["ports"]]]
    assert [component(peer) for rule in at_routes for peer in rule["from"]] == ["nats"]
    assert "6222" not in str(find("trial", "NetworkPolicy", "slipway-nats")), "a single server has no routes"


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


@pytest.mark.parametrize("name", [*SERVICES, "prepare", "smoke", "backup"])
def test_everything_that_sends_spans_reaches_the_collector_and_nothing_else_at_its_port(name):
    assert [rule["to"] for rule in rules_to("everything", name, 4318)] == [CASES["everything"]["network"]["collector"]]


@pytest.mark.parametrize("name", [*SERVICES, "prepare", "smoke", "backup"])
def test_everything_that_sends_spans_has_the_headers_and_the_authority_of_the_collector_as_files(name):
    """Jobs too, which have no volumes of their own in the values."""
    (pod,) = (pod for owner, pod in pods("everything") if owner.endswith(f"/slipway-{name}"))
    (container,) = pod["containers"]
    settings = {each["name"]: each.get("value") for each in container["env"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == mounts["/run/otlp"])
    files = {f"/run/otlp/{item['path']}": item["key"] for item in volume["items"]}
    assert volume["secretName"] == "collector"
    assert files[settings["SLIPWAY_OTLP_HEADERS"]] == "api-key"
    assert files[settings["SLIPWAY_OTLP_CA"]] == "ca.crt"
    assert "otlp" not in str(find("external", "Job", "slipway-prepare")["spec"]["template"]["spec"]["volumes"])


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


def test_compose_draws_the_same_lines():
    """The networks of compose.yaml, which were drawn by hand, join the same parts."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, contract in SERVICES.items():
        networks = set(compose[name]["networks"])
        assert ("serving" in networks) == ("triton" in contract.calls), name
        assert ("outgoing" in networks) == ("outside" in contract.calls), name
        assert ("store" in networks) == (name in SERVICE_ACCESS), name
        assert ("public" in networks) == ("gateway" in contract.calls or name == "gateway"), name


def test_the_images_that_the_page_loads_are_those_of_its_first_installation():
    (named,) = re.findall(r"^for image in (.*); do$", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE)
    images = {container["image"].partition("slipway-")[2].partition(":")[0] for _, container in containers("trial")}
    assert set(named.split()) == images
