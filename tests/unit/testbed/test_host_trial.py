"""The trial of hosts that fail: which fails when, what is cut off, whose clock is ahead, and what of the log is wrong."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.containers.hosts import clock, partition
from testbed.containers.hosts.log_checks import findings
from testbed.containers.hosts.members import HOSTS
from testbed.containers.hosts.rounds import plan
from testbed.containers.hosts.ways import WAYS

# -- rounds ----------------------------------------------------------------------------------------------------------


@given(st.integers(), st.integers(1, 40))
def test_a_seed_draws_the_same_rounds_again_and_leaves_out_no_host_and_no_way(seed, count):
    rounds = plan(seed, count)
    assert rounds == plan(seed, count)
    assert [each.activity for each in rounds] == (["release", "rollback"] * count)[:count]
    for activity in ("release", "rollback"):
        hosts = Counter(each.host for each in rounds if each.activity == activity)
        assert max(hosts[host] for host in HOSTS) - min(hosts[host] for host in HOSTS) <= 1
    ways = Counter(each.way for each in rounds)
    assert max(ways[way] for way in WAYS) - min(ways[way] for way in WAYS) <= 1


@given(st.integers())
def test_nothing_is_published_while_the_stores_host_is_away(seed):
    assert all(each.delay_s >= 0 for each in plan(seed, 12) if each.host == "c")


def test_a_round_says_what_happens_in_which_order():
    rounds = [str(each) for seed in range(20) for each in plan(seed, 6)]
    assert any("is published; host" in text for text in rounds)
    assert any("then a checkpoint is published" in text for text in rounds)
    assert any("then a rollback is ordered" in text for text in rounds)


# -- partitions and clocks -------------------------------------------------------------------------------------------


def test_a_host_reaches_its_own_addresses_in_all_networks_and_no_other():
    containers = [
        {"NetworkSettings": {"Networks": {"bus": {"IPAddress": "192.0.2.2"}, "store": {"IPAddress": "198.51.100.2"}}}},
        {"NetworkSettings": {"Networks": {"bus": {"IPAddress": "192.0.2.3"}, "none": {"IPAddress": ""}}}},
        {"NetworkSettings": {"Networks": None}},
    ]
    text = partition.rules(partition.addresses(containers))
    assert "elements = { 192.0.2.2, 192.0.2.3, 198.51.100.2 }" in text
    assert text.count("policy drop") == 2
    assert text.count("@inside accept") == 2


def test_a_host_without_addresses_is_refused():
    with pytest.raises(ValueError, match="at least one address"):
        partition.rules(set())


def test_only_services_of_host_b_have_another_clock():
    names = ["registry", "registry-b", "nats-b", "triton-b", "agent-b", "nats-c", "console", "prepare"]
    services = json.loads(clock.override(names, 5.0))["services"]
    assert set(services) == {"registry-b", "agent-b"}
    assert services["registry-b"]["environment"]["FAKETIME"] == "+5s"


# -- the log ---------------------------------------------------------------------------------------------------------


def event(number, kind, subject="bot", **data):
    return {"id": str(number), "type": f"slipway.{kind}.v1", "subject": subject, "data": data}


LOG = [
    event(1, "release.opened", release_id="r1", version=1),
    event(2, "rollback.started", rollback_id="b1"),
    event(3, "rollback.failed", rollback_id="b1"),
    event(4, "release.finished", release_id="r1"),
]


def test_a_log_that_has_grown_and_is_whole_has_no_findings():
    assert findings([], LOG) == findings(LOG[:2], LOG) == findings(LOG, LOG) == []


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ([LOG[0], LOG[1], LOG[2]], "the event 4 .* is lost"),
        ([LOG[0], LOG[2], LOG[1], LOG[3]], "another order"),
        ([*LOG, LOG[1]], "stored 2 times"),
        ([*LOG, event(5, "release.finished", release_id="r1")], "r1 has 2 ends"),
        ([*LOG, event(5, "release.opened", release_id="r2", version=2)], "r2 has 0 ends"),
        ([*LOG, event(5, "rollback.completed", rollback_id="b1")], "b1 has 2 ends"),
        ([*LOG, event(5, "rollback.started", rollback_id="b2")], "b2 has 0 ends"),
        (
            [
                *LOG,
                event(5, "release.opened", release_id="r2", version=1),
                event(6, "release.finished", release_id="r2"),
            ],
            "2 releases of version 1",
        ),
    ],
)
def test_what_is_lost_twice_or_without_an_end_is_found(now, what):
    assert re.search(what, "\n".join(findings(LOG, now)))
