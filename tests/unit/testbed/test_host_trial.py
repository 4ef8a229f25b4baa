"""The trial of hosts that fail: which fails when, whether a clock is right, and what of the log is wrong."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.containers.hosts import clock
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


def test_only_containers_that_run_have_a_process():
    """The process 0 is this one's own group: to kill it ends the trial."""
    assert pids([{"State": {"Pid": pid}} for pid in (7, 0, 9)]) == [7, 9]


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
