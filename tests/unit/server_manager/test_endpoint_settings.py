"""Which endpoints the settings may name, and what they reserve."""

import pytest
from pydantic import ValidationError

from services.server_manager.settings import ServerManagerSettings


def settings(**endpoints):
    return ServerManagerSettings(
        memory_budget_bytes=1000,
        runtimes={"next": {"triton_grpc": "b:1", "agent_grpc": "b:3", "repository": "next"}},
        endpoints={
            name: {"triton_grpc": "c:1", "agent_grpc": "c:3", "repository": name, **more}
            for name, more in endpoints.items()
        },
    )


def test_an_endpoint_is_one_more_of_its_runtime_and_shares_the_memory_of_the_fleet():
    known = settings(**{"triton-2": {}})
    assert list(known.all_endpoints) == ["default", "next", "triton-2"]
    limits = known.limits
    assert limits.endpoints == {"default": "default", "next": "next", "triton-2": "default"}
    assert limits.runtimes == {"default", "next"}
    assert limits.memory_budget_bytes == limits.pool_bytes(limits.pool("triton-2")) == 1000


def test_an_endpoint_with_a_budget_of_its_own_adds_to_the_fleet():
    limits = settings(far={"runtime": "next", "memory_budget_bytes": 400}).limits
    assert limits.endpoints["far"] == "next"
    assert limits.memory_budget_bytes == 1400
    assert (limits.pool_bytes(limits.pool("far")), limits.pool_bytes(limits.pool("default"))) == (400, 1000)


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("next", {}, "the endpoint 'next' is not valid"),
        ("default", {}, "the endpoint 'default' is not valid"),
        ("No", {}, "the endpoint 'No' is not valid"),
        ("two", {"runtime": "other"}, "has the runtime 'other', which is none of default, next"),
        ("two", {"triton_grpc": "b:1"}, "two endpoints have the triton_grpc b:1"),
        ("two", {"agent_grpc": "127.0.0.1:8003"}, "two endpoints have the agent_grpc 127.0.0.1:8003"),
        ("two", {"repository": "next"}, "two endpoints have the repository"),
        ("two", {"memory_budget_bytes": -1}, "greater than or equal to 0"),
        ("two", {"memory": 1}, "Extra inputs are not permitted"),
    ],
)
def test_an_endpoint_that_would_be_another_one_is_refused(name, more, why):
    with pytest.raises(ValidationError, match=why):
        settings(**{name: more})
