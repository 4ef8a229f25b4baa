"""An endpoint that is down: what needs it waits, and holds up nothing that does not need it."""

from dataclasses import replace

import pytest

from contracts.vocabulary import ServingSettings
from services.server_manager.domain import staging
from services.server_manager.domain.answer_types import FailLease, GrantLease, RefuseOrder, ReturnLease
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.records import Servers
from tests.unit.server_manager.factories import (
    LIMITS,
    START,
    at,
    deployable,
    held,
    route,
    stage_requested,
    traffic_requested,
)

NEXT = ServingSettings(runtime="next")
BOTH = replace(LIMITS, endpoints={"default": "default", "next": "next"})
DOWN = {"next": 3.0}
"""Seconds of silence by runtime."""


def on_next(event, *fields):
    """Return an event whose targets of these fields belong on the runtime `next`."""
    changed = {name: getattr(event.data, name).model_copy(update={"serving": NEXT}) for name in fields}
    return event.model_copy(update={"data": event.data.model_copy(update=changed)})


def record_of(*staged, granted=None, orders=()):
    record = Servers()
    for event in staged:
        record = staging.enqueue_staging(record, event)
    for event in orders:
        record = staging.enqueue_order(record, event, START)
    return staging.grant_lease(record, granted) if granted else record


def decide(record, routes=None, holding=None, *, down=DOWN, limits=BOTH, seconds=0.0):
    ids = [order.order_id for order in record.orders] + ([record.lease.lease_id] if record.lease else [])
    waited_s = dict.fromkeys(ids, seconds)
    return decide_answers(record, routes or {}, holding or {}, limits, at(seconds), waited_s=waited_s, down=down)


@pytest.mark.parametrize("field", ["candidate", "baseline"])
def test_a_held_lease_that_loads_on_it_waits_again_as_soon_as_another_can_go(field):
    record = record_of(on_next(stage_requested("s1"), field), stage_requested("s2", 3, 2), granted="s1")
    assert decide(record) == [ReturnLease("s1")]
    returned = staging.return_lease(record, "s1")
    assert returned.lease is None
    assert [(lease.lease_id, lease.state) for lease in returned.waiting] == [("s1", "waiting"), ("s2", "waiting")]
    assert decide(returned) == [GrantLease("s2")]
    assert decide(returned, down={}) == [GrantLease("s1")]


def test_a_held_lease_stays_while_no_other_can_go_or_all_answer():
    alone = record_of(on_next(stage_requested("s1"), "candidate"), granted="s1")
    assert decide(alone) == []
    others = [on_next(stage_requested("s2", 3, 2), "baseline"), stage_requested("s3", 4, 2, weights=5000)]
    record = record_of(on_next(stage_requested("s1"), "candidate"), *others, granted="s1")
    assert not any(isinstance(answer, ReturnLease) for answer in decide(record))
    both = record_of(on_next(stage_requested("s1"), "candidate"), stage_requested("s2", 3, 2), granted="s1")
    assert decide(both, down={}) == []


def test_a_lease_that_is_returned_twice_or_was_staged_meanwhile_stays_as_it_is():
    record = record_of(stage_requested("s1"), stage_requested("s2", 3, 2), granted="s1")
    returned = staging.return_lease(record, "s1")
    assert staging.return_lease(returned, "s1") == returned
    staged = staging.mark_staged(record, "s1")
    assert staging.return_lease(staged, "s1") == staged


def test_a_staged_lease_on_it_fails_with_a_code_after_a_limit_if_others_wait():
    event = on_next(stage_requested("s1"), "candidate")
    record = staging.mark_staged(record_of(event, stage_requested("s2", 3, 2), granted="s1"), "s1")
    limit_s = BOTH.silent_limit_s
    assert decide(record, down={"next": limit_s - 1}) == []
    (failed,) = decide(record, down={"next": limit_s})
    assert isinstance(failed, FailLease)
    assert (failed.code, failed.lease.lease_id) == ("endpoint_unreachable", "s1")
    assert "bot.v1.bf16" in failed.reason
    assert "next" in failed.reason
    assert f"{limit_s:g} s" in failed.reason
    alone = staging.mark_staged(record_of(event, granted="s1"), "s1")
    assert decide(alone, down={"next": limit_s * 10}) == []


@pytest.mark.parametrize("case", ["target", "fallback", "standby"])
def test_a_traffic_order_that_needs_it_holds_up_no_staging(case):
    order, routes = traffic_requested("t1", 2, epoch=1, fallback=0), {"bot": route(1, 0)}
    if case == "target":
        order = on_next(order, "target")
    elif case == "fallback":
        order, routes = on_next(traffic_requested("t1", 2, fallback=0), "fallback"), {}
    else:
        active = routes["bot"].active.model_copy(update={"serving": NEXT})
        routes = {"bot": routes["bot"].model_copy(update={"active": active})}
    record = record_of(stage_requested("s1", 4, 3), orders=[order])
    assert decide(record, routes) == [GrantLease("s1")]
    assert decide(record, routes, down={}) == []


def test_an_order_that_does_not_need_it_still_comes_first():
    orders = [on_next(traffic_requested("t1", 2, epoch=1), "target"), traffic_requested("t2", 3, epoch=1)]
    assert decide(record_of(stage_requested("s1", 4, 3), orders=orders), {"bot": route(1, 0)}) == []


def test_what_waits_for_it_keeps_its_memory():
    """1000 bytes: 400 for production, 200 for what was ordered on the silent endpoint, 400 for a new pair, or 600."""
    order = on_next(traffic_requested("t1", 2, epoch=1), "target")
    routes = {"bot": route(1, 0)}
    assert decide(record_of(stage_requested("s1", 4, 3), orders=[order]), routes) == [GrantLease("s1")]
    assert decide(record_of(stage_requested("s1", 4, 3, weights=300), orders=[order]), routes) == []


def test_what_it_holds_keeps_its_memory_and_lets_others_go_that_fit():
    holding = {f"cat.v{version}.bf16": replace(held(version, model="cat"), endpoint="next") for version in (6, 7)}
    routes = {"bot": route(1, 0), "cat": route(model="cat")}
    record = record_of(stage_requested("s1", 3, 2), stage_requested("s2", 2, 1))
    assert decide(record, routes, holding) == [GrantLease("s2")]
    assert decide(record, routes, holding, down={}) == [GrantLease("s1")], "it is unloaded when memory is needed"
    granted = record_of(stage_requested("s1", 3, 2), stage_requested("s2", 2, 1), granted="s1")
    assert decide(granted, routes, holding) == [ReturnLease("s1")]
    assert decide(granted, routes, holding, down={}) == []


def test_an_order_that_waited_in_vain_says_that_its_runtime_does_not_answer():
    record = record_of(orders=[on_next(traffic_requested("t1", 2, epoch=1), "target")])
    (refused,) = decide(record, {"bot": route(1, 0)}, seconds=600)
    assert isinstance(refused, RefuseOrder)
    assert refused.code == "load_failed"
    assert "its runtime next does not answer" in refused.reason


def test_an_order_whose_fallback_names_a_runtime_that_the_fleet_lacks_is_refused_at_once():
    other = ServingSettings(runtime="other")
    event = traffic_requested("t1", 1, fallback=0)
    fallback = deployable(0).model_copy(update={"serving": other})
    event = event.model_copy(update={"data": event.data.model_copy(update={"fallback": fallback})})
    (refused,) = decide(record_of(orders=[event]), down={})
    assert isinstance(refused, RefuseOrder)
    assert refused.code == "runtime_unknown"
    assert "bot.v0.bf16: The serving fleet has no runtime other; it has default, next." in refused.reason
    used = decide(
        record_of(orders=[event.model_copy(update={"data": event.data.model_copy(update={"epoch": 1})})]),
        {"bot": route(5, 6)},
        down={},
    )
    assert used == [], "a model that serves needs no fallback"
