"""Routes as files of Envoy and LiteLLM."""

import pytest

from clients.cli.releases.exported_routes import export_route
from contracts.routes import CanaryShare, Route
from testbed.factories import served


def attached(version, *urls):
    return served(version, "bf16").model_copy(update={"endpoints": urls})


def route(active, **more):
    return Route(model="support-bot", epoch=3, active=active, **more)


def weights(exported):
    clusters = exported["routes.json"]["resources"][0]["virtual_hosts"][0]["routes"][0]["route"]["weighted_clusters"]
    return {each["name"]: each["weight"] for each in clusters["clusters"]}


BLUE = attached(1, "http://KEY_1@gpu-1:8000", "https://gpu-2/base")
GREEN = attached(2, "http://[::1]:8000")
SHARE = CanaryShare(served=GREEN, weight_ratio=0.25)


def test_litellm_gets_each_replica_with_its_part_of_the_share():
    listed = export_route(route(BLUE, canary=SHARE), "litellm")["model_list.json"]["model_list"]
    assert {each["model_name"] for each in listed} == {"support-bot"}
    assert [each["litellm_params"] for each in listed] == [
        {
            "model": "openai/support-bot.v1.bf16",
            "api_base": "http://gpu-1:8000/v1",
            "api_key": "os.environ/KEY_1",
            "weight": 0.375,
        },
        {
            "model": "openai/support-bot.v1.bf16",
            "api_base": "https://gpu-2/base/v1",
            "api_key": "none",
            "weight": 0.375,
        },
        {
            "model": "openai/support-bot.v2.bf16",
            "api_base": "http://[::1]:8000/v1",
            "api_key": "none",
            "weight": 0.25,
        },
    ]


def test_envoy_knows_the_cluster_of_a_rollback_before_it_happens():
    blue = attached(1, "https://gpu-1", "https://gpu-2:8443")
    exported = export_route(route(GREEN, previous=blue), "envoy")
    clusters = {each["name"]: each for each in exported["clusters.json"]["resources"]}
    assert set(clusters) == {"support-bot.v1.bf16", "support-bot.v2.bf16"}
    endpoints = clusters["support-bot.v1.bf16"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    sockets = [each["endpoint"]["address"]["socket_address"] for each in endpoints]
    assert [(each["address"], each["port_value"]) for each in sockets] == [("gpu-1", 443), ("gpu-2", 8443)]
    assert "transport_socket" in clusters["support-bot.v1.bf16"]
    assert "transport_socket" not in clusters["support-bot.v2.bf16"]
    assert weights(exported) == {"support-bot.v2.bf16": 10000}
    assert list(exported) == ["clusters.json", "routes.json"]


def test_a_canary_takes_its_share_but_not_if_it_is_for_chosen_callers():
    plain = attached(1, "http://gpu-1:8000")
    assert weights(export_route(route(plain, canary=SHARE), "envoy")) == {
        "support-bot.v1.bf16": 7500,
        "support-bot.v2.bf16": 2500,
    }
    chosen = SHARE.model_copy(update={"only_for": ("team:staff",)})
    assert weights(export_route(route(plain, canary=chosen), "envoy")) == {"support-bot.v1.bf16": 10000}


@pytest.mark.parametrize(
    ("routed", "router", "why"),
    [
        (Route(model="support-bot"), "litellm", "nothing serves support-bot"),
        (route(served(1)), "litellm", "Triton"),
        (route(BLUE), "envoy", "https://gpu-2/base has a path"),
    ],
)
def test_what_cannot_be_exported_says_why(routed, router, why):
    assert why in export_route(routed, router)
