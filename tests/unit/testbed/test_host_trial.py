"""The trial of hosts that fail: which fails when, what is cut off, whose clock is ahead, and what of the log is wrong."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.containers.hosts import clock, partition
from testbed.containers.hosts.log_checks import findings
from testbed.containers.hosts.members import HOSTS, pids
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


def test_only_containers_that_run_have_a_process():
    containers = [{"State": {"Pid": pid}} for pid in (7, 0, 9)]
    assert pids(containers) == [7, 9]


KILLED = """
import subprocess, sys
from testbed.containers.hosts.ways import killed

class Stack:
    def __init__(self, *processes):
        self.processes = processes

    def containers(self):
        labels = {"com.docker.compose.service": "registry"}
        return [{"Config": {"Labels": labels}, "State": {"Pid": pid}} for pid in self.processes]

container = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
with killed(Stack(0, container.pid), "a"):
    print(container.wait(10))
"""


def test_a_container_that_does_not_run_is_no_reason_to_kill_the_trial_itself():
    done = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, check=False, timeout=60, start_new_session=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "-9"), done.stderr


def test_a_host_without_addresses_is_refused():
    with pytest.raises(ValueError, match="at least one address"):
        partition.rules(set())


def test_only_services_of_host_b_have_another_clock():
    names = ["registry", "registry-b", "nats-b", "triton-b", "agent-b", "nats-c", "console", "prepare"]
    services = json.loads(clock.override(names, 5.0))["services"]
    assert set(services) == {"registry-b", "agent-b"}
    assert services["registry-b"]["environment"]["FAKETIME"] == "+5s"


# -- the log ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call_s", [0.2, 8.0])
@pytest.mark.parametrize(("really_s", "is_right"), [(5.0, True), (5.9, True), (6.2, False), (3.8, False), (0.0, False)])
def test_a_clock_is_right_within_a_second_however_long_podman_takes_to_read_it(call_s, really_s, is_right):
    start, end = (100.0, 100.0 + really_s, 100.0 + call_s), (200.0, 200.0 + call_s + really_s, 200.0 + call_s)
    assert clock.compare([start, end]).may_be(5.0) is is_right, "it was read first and last in the call"
    assert clock.compare([start]).may_be(really_s)
    assert clock.compare([end]).may_be(really_s)


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


def test_a_rollback_that_failed_may_be_completed_once_another_controller_had_moved_the_route():
    assert findings(LOG, [*LOG, event(5, "rollback.completed", rollback_id="b1")]) == []


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ([LOG[0], LOG[1], LOG[2]], "the event 4 .* is lost"),
        ([LOG[0], LOG[2], LOG[1], LOG[3]], "another order"),
        ([*LOG, LOG[1]], "stored 2 times"),
        ([*LOG, event(5, "release.finished", release_id="r1")], "r1 has 2 ends"),
        ([*LOG, event(5, "release.opened", release_id="r2", version=2)], "r2 has 0 ends"),
        ([*LOG, event(5, "rollback.failed", rollback_id="b1")], "b1 has 2 rollback.failed"),
        ([*LOG, *(event(n, "rollback.completed", rollback_id="b1") for n in (5, 6))], "b1 has 2 rollback.completed"),
        ([*LOG, event(5, "rollback.started", rollback_id="b2")], "b2 has no end"),
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
