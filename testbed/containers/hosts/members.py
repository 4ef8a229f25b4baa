"""Which containers of deploy/docker/compose.cluster.yaml are on which of its three hosts."""

from typing import Any

HOSTS = ("a", "b", "c")
ON_C = frozenset({"nats-c", "store", "console", "provisioner", "mirror", "notifier"})
ON_NONE = frozenset({"prepare", "store-users", "serving-folder", "cli"})
"""What does its work and ends."""
GATEWAYS = {"a": "gateway", "b": "gateway-b"}
BUS = {"a": "nats", "b": "nats-b", "c": "nats-c"}


def host_of(service: str) -> str:
    """Return the host of a service of the cluster, or nothing if it only works once."""
    if service in ON_NONE:
        return ""
    if service in ON_C or service.endswith("-c"):
        return "c"
    return "b" if service.endswith("-b") else "a"


def pids(containers: list[dict[str, Any]]) -> list[int]:
    """Return the first process of each container that runs; podman says 0 for one that does not."""
    return [pid for each in containers if (pid := int(each["State"]["Pid"])) > 0]
