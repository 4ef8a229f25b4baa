"""What the chart renders, by case: its objects, the pods in them, and who may talk to whom by its policies."""

from collections.abc import Iterator
from typing import Any

from tests.kit.charts.client import answers
from tests.kit.wiring import ROOT

GOLDEN = ROOT / "tests/contract/chart"
RENDERED = {
    "external": [
        ("StatefulSet", "slipway-gateway"),
        ("NetworkPolicy", "slipway-rollback-controller"),
        ("Deployment", "slipway-provisioner"),
    ],
    "three-servers": [("StatefulSet", "slipway-nats"), ("ConfigMap", "slipway-nats")],
    "everything": [("ScaledObject", "slipway-quantiser"), ("Job", "slipway-prepare")],
}
"""Objects whose whole text is kept, by case; of the others the list of kinds and names."""
OF_THE_BUS = ("SLIPWAY_NATS_NAME", "SLIPWAY_NATS_ADVERTISE")
"""Variables of the bus's servers, which only their configuration reads."""


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


def pod_volumes(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return workload["spec"]["template"]["spec"]["volumes"]


def containers(case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(case):
        for container in pod["containers"] + pod.get("initContainers", []):
            yield f"{name}/{container['name']}", container


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


def rules_to(case: str, name: str, port: int) -> list[dict[str, Any]]:
    """The rules of one's policy that let it reach a port."""
    rules = find(case, "NetworkPolicy", f"slipway-{name}")["spec"].get("egress", [])
    return [rule for rule in rules if port in [each["port"] for each in rule["ports"]]]


def environment(case: str, kind: str, name: str) -> dict[str, Any]:
    (container,) = find(case, kind, f"slipway-{name}")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
