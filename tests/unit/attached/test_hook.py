"""Into which group the example's hook deploys a version."""

import pytest

from examples.attached.hook import choose_group, groups_of, is_deployed, targets_in_traffic

V1, V2 = ({"model": "bot", "version": number, "variant": "bf16"} for number in (1, 2))


def endpoint(name, address, *targets):
    return {"name": name, "endpoint": address, "targets": [{"target": target, "phase": "ready"} for target in targets]}


ENDPOINTS = [
    endpoint("default", "127.0.0.1:8001"),
    endpoint("bot/blue", "http://a", V1),
    endpoint("bot/blue", "http://b", V1),
    endpoint("bot/green", "http://c"),
    endpoint("other/blue", "http://d"),
]
GROUPS = groups_of(ENDPOINTS, "bot")


def served(target, *addresses):
    return {"target": target, "endpoints": list(addresses)}


def routes(active, canary=None):
    share = {"served": canary, "weight": 0.1} if canary else None
    return [{"model": "other", "active": served(V1, "http://c"), "canary": None},
            {"model": "bot", "active": active, "canary": share}]  # fmt: skip


def test_groups_are_those_of_the_model():
    assert {name: [each["endpoint"] for each in replicas] for name, replicas in GROUPS.items()} == {
        "blue": ["http://a", "http://b"],
        "green": ["http://c"],
    }


@pytest.mark.parametrize(
    ("listed", "first", "expected"),
    [
        (routes(served(V1, "http://a", "http://b")), "green", "green"),
        (routes(served(V1, "http://b")), "blue", "green"),
        (routes(served(V1, "http://c")), "green", "blue"),
        (routes(served(V1, "http://a"), served(V2, "http://c")), "green", None),
        ([], "green", "green"),
        ([], "red", None),
        (routes(None), "blue", "blue"),
    ],
)
def test_a_version_goes_to_the_group_without_traffic(listed, first, expected):
    assert choose_group(GROUPS, targets_in_traffic(listed, "bot"), first) == expected


def test_what_a_group_serves_is_not_deployed_again():
    assert is_deployed(GROUPS, V1)
    assert not is_deployed(GROUPS, V2)
