"""What provisioning makes of a stream that is there already: raised where more is declared, never lowered."""

import pytest

from shared.messaging.provision import merge

LIVE = {
    "name": "KV_routes",
    "subjects": ["$KV.routes.>"],
    "num_replicas": 1,
    "max_msgs_per_subject": 16,
    "max_bytes": 4096,
    "max_age": 0,
    "placement": {"cluster": "east"},
    "metadata": {"owner": "ops"},
}
DECLARED = {"num_replicas": 1, "max_msgs_per_subject": 16, "max_bytes": 4096}


def merged(live=(), declared=(), used_bytes=0):
    return merge({**LIVE, **dict(live)}, {**DECLARED, **dict(declared)}, used_bytes=used_bytes)


def test_nothing_changes_where_nothing_is_asked():
    assert merged() == LIVE


@pytest.mark.parametrize(("setting", "more"), [("num_replicas", 3), ("max_msgs_per_subject", 64), ("max_bytes", 8192)])
def test_more_is_taken_and_less_is_not(setting, more):
    assert merged(declared={setting: more}) == {**LIVE, setting: more}
    assert merged(live={setting: more}) == {**LIVE, setting: more}


def test_a_stream_without_a_limit_gets_one_unless_it_holds_more_already():
    assert merged(live={"max_bytes": -1}, used_bytes=4000) == LIVE
    assert merged(live={"max_bytes": -1}, used_bytes=5000)["max_bytes"] == -1


def test_a_stream_that_is_full_gets_more():
    assert merged(declared={"max_bytes": 8192}, used_bytes=4096)["max_bytes"] == 8192


def test_history_that_is_not_counted_stays_so():
    assert merged(live={"max_msgs_per_subject": -1})["max_msgs_per_subject"] == -1


def test_what_is_declared_of_a_stream_of_facts_is_set_right():
    assert merged(declared={"subjects": ["a", "b"], "max_age": 5}) == {**LIVE, "subjects": ["a", "b"], "max_age": 5}
