"""The demo in containers finds each difference between compose.yaml and a container, and waits for healthy ones only."""

import copy

import pytest

from testbed.containers.installation import is_ready
from testbed.containers.isolation import findings

COMPOSE = {
    "services": {
        "gateway": {
            "user": "10001:10001",
            "mem_limit": "2147483648",
            "pids_limit": 1000,
            "cpus": 1.5,
            "cpu_shares": 2048,
            "restart": "unless-stopped",
            "networks": {"bus": None, "public": None},
            "ports": [{"host_ip": "127.0.0.1", "published": "8080", "target": 8080}],
            "secrets": [{"source": "gateway", "target": "credential"}],
            "volumes": [
                {"type": "volume", "source": "gateway", "target": "/state"},
                {"type": "volume", "target": "/tmp"},
                {"type": "bind", "source": "/keys", "target": "/run/gateway"},
            ],
        },
        "mirror": {"profiles": ["mirror"]},
    },
    "networks": {"bus": {"name": "p_bus"}, "public": {"name": "p_public"}},
    "volumes": {"gateway": {"name": "p_gateway"}},
}
CONTAINER = {
    "Config": {
        "User": "10001:10001",
        "Env": ["PATH=/bin"],
        "Labels": {"com.docker.compose.service": "gateway"},
    },
    "HostConfig": {
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges"],
        "Memory": 2147483648,
        "NanoCpus": 1_500_000_000,
        "CpuShares": 2048,
        "PidsLimit": 1000,
        "LogConfig": {"Type": "json-file", "Size": "10MB"},
        "RestartPolicy": {"Name": "unless-stopped"},
        "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
    },
    "EffectiveCaps": None,
    "NetworkSettings": {"Networks": {"p_bus": {}, "p_public": {}}},
    "Mounts": [
        {"Type": "volume", "Name": "p_gateway", "Destination": "/state", "RW": True},
        {"Type": "bind", "Destination": "/run/secrets/credential", "RW": False},
    ],
}


def changed(path: str, value: object) -> dict:
    """Return the container with one field changed."""
    container = copy.deepcopy(CONTAINER)
    *parents, last = path.split(".")
    part = container
    for name in parents:
        part = part[int(name)] if name.isdigit() else part[name]
    part[last] = value
    return container


def test_a_container_as_the_file_names_it_has_no_finding():
    assert findings(COMPOSE, [CONTAINER], ["SECRET"]) == []


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("Config.User", "0:0", "user"),
        ("HostConfig.ReadonlyRootfs", False, "read-only root"),
        ("EffectiveCaps", ["CAP_CHOWN"], "capabilities"),
        ("HostConfig.SecurityOpt", [], "new privileges"),
        ("HostConfig.Memory", 0, "limit of memory"),
        ("HostConfig.NanoCpus", 0, "limit of processors"),
        ("HostConfig.CpuShares", 0, "share of processors"),
        ("HostConfig.PidsLimit", 0, "limit of processes"),
        ("HostConfig.LogConfig", {"Type": "json-file", "Size": "0B"}, "log that is rotated"),
        ("HostConfig.LogConfig", {"Type": "json-file"}, "log that is rotated"),
        ("HostConfig.RestartPolicy", {"Name": "no"}, "restart"),
        ("HostConfig.PortBindings", None, "published ports"),
        ("HostConfig.PortBindings", {"1/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9"}]}, "published ports"),
        ("HostConfig.PortBindings", {"8080/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "published ports"),
        ("NetworkSettings.Networks", {"p_bus": {}}, "networks"),
        ("NetworkSettings.Networks", {"p_bus": {}, "p_public": {}, "p_store": {}}, "networks"),
        ("Mounts.0.Name", "0123abcd", "named volumes"),
        ("Mounts.1.RW", True, "read-only"),
        ("Mounts.1.Destination", "/run/secrets/other", "does not name"),
        ("Config.Env", ["KEY=a SECRET in a variable"], "variable"),
    ],
)
def test_each_difference_is_found(path, value, text):
    differences = findings(COMPOSE, [changed(path, value)], ["SECRET"])
    assert differences
    assert any(text in finding and finding.startswith("gateway: ") for finding in differences)


def test_a_service_without_a_container_is_found_but_not_one_of_a_profile():
    assert findings(COMPOSE, [], []) == ["gateway: no container"]


@pytest.mark.parametrize(
    ("service", "state", "ready"),
    [
        ("gateway", {"Running": True, "Status": "running", "Health": {"Status": "healthy"}}, True),
        ("gateway", {"Running": True, "Status": "running", "Health": {"Status": "unhealthy"}}, False),
        ("gateway", {"Running": True, "Status": "running", "Health": {"Status": "starting"}}, False),
        ("gateway", {"Running": True, "Status": "running"}, False),
        ("gateway", {"Running": False, "Status": "exited", "ExitCode": 0}, False),
        ("prepare", {"Running": False, "Status": "exited", "ExitCode": 0}, True),
        ("prepare", {"Running": False, "Status": "exited", "ExitCode": 1}, False),
        ("prepare", {"Running": False, "Status": "created", "ExitCode": 0}, False),
    ],
)
def test_only_what_is_healthy_or_has_done_its_work_is_ready(service, state, ready):
    assert is_ready({"Config": {"Labels": {"com.docker.compose.service": service}}, "State": state}) is ready
