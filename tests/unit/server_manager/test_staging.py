"""Edits of the record: first come first served, safe to repeat, right in any order."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.vocabulary import Target
from services.server_manager.domain import staging
from services.server_manager.domain.records import OpenAlert, Servers
from tests.unit.server_manager.factories import (
    START,
    at,
    release_finished,
    stage_released,
    stage_requested,
    traffic_requested,
)


def test_only_one_order_holds_the_lease():
    record = staging.enqueue_staging(Servers(), stage_requested("s1", 1))
    record = staging.enqueue_staging(record, stage_requested("s2", 2))
    record = staging.grant_lease(record, "s1")
    assert record.lease.lease_id == "s1"
    assert record.lease.state == "loading"
    assert staging.grant_lease(record, "s2") == record


def test_release_frees_the_lease_of_that_candidate_only():
    record = staging.grant_lease(staging.enqueue_staging(Servers(), stage_requested("s1", 1)), "s1")
    assert staging.release_staging(record, stage_released(2)).lease == record.lease
    assert staging.release_staging(record, stage_released(1, release="other")).lease == record.lease
    assert staging.release_staging(record, stage_released(1)).lease is None


def test_a_finished_release_loses_lease_and_queue_and_its_orders_are_void():
    record = staging.grant_lease(staging.enqueue_staging(Servers(), stage_requested("s1", 1)), "s1")
    record = staging.enqueue_staging(record, stage_requested("s2", 2))
    record = staging.enqueue_staging(record, stage_requested("s3", 3, release="r2"))
    record = staging.enqueue_order(record, traffic_requested("t1"), START)
    record = staging.enqueue_order(record, traffic_requested("t2", release="r2"), START)
    record = staging.finish_release(record, release_finished("r1"))
    assert record.lease is None
    assert [lease.lease_id for lease in record.waiting] == ["s3"]
    assert [order.order_id for order in record.orders] == ["t1", "t2"], "each gets an answer"
    assert [staging.ended_at(record, release) is None for release in ("r1", "r2")] == [False, True]


def test_a_request_that_arrives_after_its_release_is_void():
    record = staging.release_staging(Servers(), stage_released(1, seconds=10))
    assert not staging.enqueue_staging(record, stage_requested("s1", 1, seconds=5)).waiting
    later = staging.enqueue_staging(record, stage_requested("s2", 1, seconds=15))
    assert later.waiting, "a rehearsal asks for the same candidate again, later"
    finished = staging.finish_release(record, release_finished("r1", seconds=20))
    assert not staging.enqueue_staging(finished, stage_requested("s3", 1, seconds=25)).waiting


PURPOSES = (
    (staging.enqueue_staging, stage_requested("s1", 1, seconds=0)),
    (staging.release_staging, stage_released(1, seconds=5, purpose="benchmark")),
    # said in the same breath by a registry whose clock has not moved, or was set back
    (staging.enqueue_staging, stage_requested("s2", 1, seconds=4, purpose="rehearsal")),
)


@pytest.mark.parametrize("order", permutations(PURPOSES))
def test_the_end_of_the_benchmark_s_lease_never_ends_the_rehearsal_s(order):
    record = Servers()
    for edit, event in order:
        record = edit(record, event)
        record = staging.grant_lease(record, "s1")
    assert [lease.lease_id for lease in record.waiting] == ["s2"]
    assert record.lease is None
    assert not staging.release_staging(record, stage_released(1, seconds=6, purpose="rehearsal")).waiting


@pytest.mark.parametrize(
    "order", permutations([*PURPOSES, (staging.release_staging, stage_released(1, seconds=3, purpose="rehearsal"))])
)
def test_once_both_are_released_nothing_is_staged_whatever_came_first(order):
    record = Servers()
    for edit, event in order:
        record = edit(record, event)
    assert (record.lease, record.waiting) == (None, ())


def test_a_release_of_an_earlier_time_names_no_purpose_and_ends_what_was_asked_for_before():
    record = staging.release_staging(Servers(), stage_released(1, seconds=10))
    assert not staging.enqueue_staging(record, stage_requested("s1", 1, seconds=5, purpose="rehearsal")).waiting
    assert staging.enqueue_staging(record, stage_requested("s2", 1, seconds=15, purpose="rehearsal")).waiting


def test_a_record_of_an_earlier_time_still_reads():
    closed = {"release_id": "r1", "candidate": None, "at": at(1).isoformat()}
    assert Servers.model_validate({"closed": [closed]}).closed[0].purpose is None


def test_a_redelivered_request_does_not_take_the_lease_again():
    record = staging.grant_lease(staging.enqueue_staging(Servers(), stage_requested("s1", 1)), "s1")
    record = staging.mark_staged(record, "s1")
    assert staging.enqueue_staging(record, stage_requested("s1", 1)) == record
    freed = staging.release_staging(record, stage_released(1))
    assert staging.enqueue_staging(freed, stage_requested("s1", 1)) == freed


_FACTS = (
    (staging.enqueue_staging, stage_requested("s1", 1, seconds=0)),
    (staging.release_staging, stage_released(1, seconds=10)),
    (staging.enqueue_staging, stage_requested("s2", 2, seconds=11)),
    (staging.finish_release, release_finished("r1", seconds=20)),
)


def test_every_order_of_a_release_s_facts_ends_with_nothing_staged():
    for order in permutations(_FACTS):
        record = Servers()
        for edit, event in order:
            record = edit(record, event)
        assert record.lease is None
        assert not record.waiting


@given(st.lists(st.sampled_from(range(len(_FACTS))), max_size=12))
def test_applying_a_fact_twice_is_applying_it_once(choices):
    record = Servers()
    for index in choices:
        edit, event = _FACTS[index]
        once = edit(record, event)
        assert edit(once, event) == once
        record = once


def test_an_alert_opens_once_and_keeps_its_moment():
    target = Target(model="bot", version=1, variant="bf16")
    record = staging.open_alert(Servers(), OpenAlert(target=target, raised_at=at(1), message="x"))
    again = staging.open_alert(record, OpenAlert(target=target, raised_at=at(9), message="y"))
    assert again == record
    assert not staging.close_alert(record, record.alerts[0]).alerts
