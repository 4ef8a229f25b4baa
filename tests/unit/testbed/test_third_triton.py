"""The third Triton of the trial of hosts, as docker-compose reads it."""

import json

from testbed.containers.hosts.third_triton import override

ENDPOINTS = {"b": {"triton_grpc": "triton-b:8001", "agent_grpc": "agent-b:8003", "repository": "/serving/models-b"}}
CONFIG = {
    "services": {
        "triton-b": {"image": "toy", "command": ["serve", "/opt/triton", "/serving/models-b"], "networks": {"serving": None}},
        "agent-b": {
            "environment": {"TRITON_AGENT_TRITON_GRPC": "triton-b:8001"},
            "volumes": [{"type": "volume", "source": "agent-b", "target": "/state"}],
        },
        "server-manager": {"environment": {"SERVER_MANAGER_ENDPOINTS": json.dumps(ENDPOINTS)}},
    }
}  # fmt: skip


def test_it_is_made_like_that_of_host_b_with_its_own_folder_volume_and_agent():
    added = json.loads(override(CONFIG))
    services = added["services"]
    assert services["triton-c"] == CONFIG["services"]["triton-b"] | {
        "command": ["serve", "/opt/triton", "/serving/models-c"]
    }
    assert services["agent-c"]["environment"] == {"TRITON_AGENT_TRITON_GRPC": "triton-c:8001"}
    assert services["agent-c"]["volumes"] == [{"type": "volume", "source": "agent-c", "target": "/state"}]
    assert added["volumes"] == {"agent-c": {}}
    assert services["serving-folder"]["command"][-1] == "/serving/models-c"


def test_both_server_managers_know_it_beside_that_of_host_b():
    services = json.loads(override(CONFIG))["services"]
    for name in ("server-manager", "server-manager-b"):
        known = json.loads(services[name]["environment"]["SERVER_MANAGER_ENDPOINTS"])
        assert known["b"] == ENDPOINTS["b"]
        assert known["c"] == {
            "triton_grpc": "triton-c:8001",
            "agent_grpc": "agent-c:8003",
            "repository": "/serving/models-c",
        }
