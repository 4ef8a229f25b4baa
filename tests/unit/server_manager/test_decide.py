"""Answers to orders: grant, fail, announce, refuse, apply, or wait."""

from dataclasses import replace

import pytest

from contracts.routes import Route
from decisions.routes.edits import move
from services.server_manager.domain import staging
from services.server_manager.domain.answer_types import (
    AnnounceStaged,
    ApplyOrder,
    EndTrial,
    FailLease,
    GrantLease,
    RefuseOrder,
)
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.reconcile import Phase
from services.server_manager.domain.records import Servers
from services.server_manager.domain.traffic import next_previous
from tests.unit.server_manager.factories import (
    LIMITS,
    START,
    at,
    deployable,
    held,
    release_finished,
    route,
    stage_requested,
    traffic_requested,
)

V0, V1, V2 = "bot.v0.bf16", "bot.v1.bf16", "bot.v2.bf16"


def decide(record, routes=None, holding=None, *, seconds=0.0, down=None):
    ids = [order.order_id for order in record.orders] + ([record.lease.lease_id] if record.lease else [])
    return decide_answers(
        record, routes or {}, holding or {}, LIMITS, at(seconds), waited_s=dict.fromkeys(ids, seconds), down=down
    )


def waiting(*events):
    record = Servers()
    for event in events:
        record = staging.enqueue_staging(record, event)
    return record


def ordered(event, record=None):
    return staging.enqueue_order(record or Servers(), event, START)


# -- staging ---------------------------------------------------------------------------------------------------------


def test_the_first_waiting_order_gets_the_lease():
    assert decide(waiting(stage_requested("s1"), stage_requested("s2", 2))) == [GrantLease("s1")]


def test_the_lease_is_not_granted_while_it_is_held_or_traffic_is_ordered():
    record = staging.grant_lease(waiting(stage_requested("s1"), stage_requested("s2", 2)), "s1")
    assert decide(record) == []
    busy = ordered(traffic_requested("t1", 3), waiting(stage_requested("s1")))
    assert not any(isinstance(step, GrantLease) for step in decide(busy))


def test_what_fits_nowhere_fails_at_once_even_behind_others():
    record = waiting(stage_requested("s1"), stage_requested("s2", 2, weights=5000))
    grant, failed = sorted(decide(record), key=lambda step: type(step).__name__, reverse=True)
    assert grant == GrantLease("s1")
    assert isinstance(failed, FailLease)
    assert failed.code == "insufficient_memory"
    assert dict(failed.details) == {"needed_bytes": 5300, "available_bytes": 1000}
    assert "5300" in failed.reason
    assert "1000" in failed.reason


def test_what_does_not_fit_beside_production_fails_when_its_turn_comes_and_the_next_one_goes():
    routes = {"bot": route(5, 6), "cat": route(1, 2, model="cat")}
    (failed,) = decide(waiting(stage_requested("s1")), routes)
    assert (failed.code, failed.lease.lease_id) == ("insufficient_memory", "s1")
    failed, granted = decide(waiting(stage_requested("s1"), stage_requested("s2", 5, 6)), routes)
    assert (failed.lease.lease_id, granted) == ("s1", GrantLease("s2"))


def test_shared_targets_are_counted_once():
    routes = {"bot": route(0, 6), "cat": route(1, 2, model="cat")}
    assert decide(waiting(stage_requested("s1", 1, 0)), routes) == [GrantLease("s1")]


def test_staged_is_announced_when_both_are_ready_and_only_once():
    record = staging.grant_lease(waiting(stage_requested("s1")), "s1")
    assert decide(record, holding={V1: held(1)}) == []
    assert decide(record, holding={V1: held(1), V0: held(0, Phase.UNPROVEN)}) == []
    (step,) = decide(record, holding={V1: held(1), V0: held(0)})
    assert step == AnnounceStaged(record.lease)
    assert decide(staging.mark_staged(record, "s1"), holding={V1: held(1), V0: held(0)}) == []


@pytest.mark.parametrize("broken", [0, 1])
def test_a_lease_fails_with_the_code_of_what_could_not_be_loaded(broken):
    record = staging.grant_lease(waiting(stage_requested("s1")), "s1")
    failed = held(broken, Phase.FAILED, failures=2, code="no_first_token", reason="silent")
    other = {V0: held(0), V1: held(1)} | {f"bot.v{broken}.bf16": failed}
    (step,) = decide(record, holding=other)
    assert isinstance(step, FailLease)
    assert step.code == "no_first_token"
    assert "silent" in step.reason
    once = {**other, f"bot.v{broken}.bf16": held(broken, Phase.FAILED, failures=1)}
    assert decide(record, holding=once) == [], "one failure is tried again"
    hopeless = {**other, f"bot.v{broken}.bf16": held(broken, Phase.FAILED, failures=1, hopeless=True)}
    assert len(decide(record, holding=hopeless)) == 1, "a corrupt artifact is not"


# -- traffic ---------------------------------------------------------------------------------------------------------


def test_an_order_waits_until_its_target_and_the_standby_are_ready():
    record = ordered(traffic_requested("t1", 2, epoch=1))
    routes = {"bot": route(1, 0)}
    assert decide(record, routes) == []
    assert decide(record, routes, {V2: held(2)}) == []
    assert decide(record, routes, {V2: held(2), V1: held(1, Phase.DEAD)}) == []
    assert decide(record, routes, {V2: held(2), V1: held(1)}) == [ApplyOrder(record.orders[0])]


@pytest.mark.parametrize(("candidate", "standby"), [("next", "default"), ("default", "next")])
def test_what_a_silent_endpoint_holds_takes_no_traffic_and_is_nothing_to_roll_back_to(candidate, standby):
    record, routes = ordered(traffic_requested("t1", 2, epoch=1)), {"bot": route(1, 0)}
    holding = {V2: replace(held(2), endpoint=candidate), V1: replace(held(1), endpoint=standby)}
    assert decide(record, routes, holding, down={"next": 3.0}) == []
    assert decide(record, routes, holding) == [ApplyOrder(record.orders[0])]


def test_what_a_silent_endpoint_holds_is_not_announced_as_staged():
    record = staging.grant_lease(waiting(stage_requested("s1")), "s1")
    holding = {V1: replace(held(1), endpoint="next"), V0: held(0)}
    assert decide(record, holding=holding, down={"next": 3.0}) == []
    assert decide(record, holding=holding) == [AnnounceStaged(record.lease)]


def test_a_first_order_needs_its_fallback_ready_or_nothing_behind_it():
    alone = ordered(traffic_requested("t1", 1))
    assert decide(alone, holding={V1: held(1)}) == [ApplyOrder(alone.orders[0])]
    backed = ordered(traffic_requested("t1", 1, fallback=0))
    assert decide(backed, holding={V1: held(1)}) == []
    assert decide(backed, holding={V1: held(1), V0: held(0)}) == [ApplyOrder(backed.orders[0])]


def refusal(record, routes, holding=None, **more):
    (step,) = decide(record, routes, holding, **more)
    assert isinstance(step, RefuseOrder)
    return step.code


def test_refusals():
    routes = {"bot": route(1, 0)}
    assert refusal(ordered(traffic_requested("t1", 2, epoch=0)), routes) == "stale_epoch"
    moved = move(routes["bot"], deployable(1).target, ("127.0.0.1:9",), epoch=1, cause_id="moved-1").route
    order = ordered(traffic_requested("t1", 2, epoch=1))
    assert decide(order, {"bot": moved}, {V2: held(2), V1: held(1)}) == [ApplyOrder(order.orders[0])]
    quarantined = {"bot": route(1, 0, quarantined=(deployable(2).target,))}
    assert refusal(ordered(traffic_requested("t1", 2, epoch=1)), quarantined) == "quarantined"
    assert refusal(ordered(traffic_requested("t1", 2, epoch=1, weights=900)), routes) == "insufficient_memory"
    record = ordered(traffic_requested("t1", 2, epoch=1))
    assert refusal(record, routes, {V2: held(2, Phase.FAILED, failures=2)}) == "load_failed"
    targets = {V2: held(2), V1: held(1, Phase.FAILED, failures=2)}
    assert refusal(record, routes, targets) == "previous_not_ready"


def test_an_order_waits_until_its_deadline():
    record, routes = ordered(traffic_requested("t1", 2, epoch=1)), {"bot": route(1, 0)}
    assert decide(record, routes, {V2: held(2, Phase.LOADING)}, seconds=599) == []
    assert refusal(record, routes, {V2: held(2, Phase.LOADING)}, seconds=600) == "load_failed"
    assert refusal(record, routes, {V2: held(2), V1: held(1, Phase.DEAD)}, seconds=600) == "previous_not_ready"


def test_an_order_that_made_the_route_is_applied_again_whatever_is_ready():
    record = ordered(traffic_requested("t1", 2, epoch=1))
    routes = {"bot": route(2, 1, epoch=2, cause_id="t1")}
    assert decide(record, routes) == [ApplyOrder(record.orders[0])]


def test_the_next_previous_target():
    assert next_previous(Route(model="bot"), deployable(1), None) is None
    assert next_previous(Route(model="bot"), deployable(1), deployable(0)) == deployable(0)
    assert next_previous(route(1, 0), deployable(2), None).target == deployable(1).target
    assert next_previous(route(1, 0), deployable(1), None).target == deployable(0).target


# -- what is old ------------------------------------------------------------------------------------------------------


def test_a_traffic_order_of_last_month_is_refused_although_the_route_is_at_its_epoch():
    """Its release expired then; the consumer was lost, and made again."""
    event = traffic_requested("t1", 3)
    (step,) = decide(ordered(event), {}, {"bot.v3.bf16": held(3)}, seconds=30 * 86_400)
    assert isinstance(step, RefuseOrder)
    assert step.code == "order_expired"


def test_a_traffic_order_of_a_release_that_has_ended_is_refused_and_answered():
    event = traffic_requested("t1", 3)
    ended = staging.finish_release(Servers(), release_finished(event.data.release_id))
    (step,) = decide(ordered(event, ended), {}, {"bot.v3.bf16": held(3)})
    assert isinstance(step, RefuseOrder)
    assert step.code == "order_expired"


def test_an_order_that_was_carried_out_is_only_said_again_although_its_release_has_ended():
    event = traffic_requested("t1", 3)
    ended = staging.finish_release(Servers(), release_finished(event.data.release_id))
    carried_out = route(active=3, cause_id="t1")
    assert decide(ordered(event, ended), {"bot": carried_out}, {"bot.v3.bf16": held(3)}, seconds=10**7) == [
        ApplyOrder(ordered(event, ended).orders[0])
    ]


@pytest.mark.parametrize(("apart_s", "ends"), [(9.9, False), (10, True), (600, True), (-9.9, False), (-600, True)])
def test_a_canary_of_a_release_that_ended_is_ended_after_a_while_or_by_clocks_that_are_apart(apart_s, ends):
    event = traffic_requested("t1", 3, weight=0.1)
    ended = staging.finish_release(Servers(), release_finished(event.data.release_id, seconds=1000))
    serving = route(active=2, canary=3, cause_id="t1")
    holding = {"bot.v2.bf16": held(2), "bot.v3.bf16": held(3)}
    steps = decide(ordered(event, ended), {"bot": serving}, holding, seconds=1000 + apart_s)
    assert [type(step) for step in steps] == [EndTrial] * ends


@pytest.mark.parametrize(("late_s", "kind"), [(0, GrantLease), (1, FailLease)])
def test_a_staging_order_is_valid_up_to_its_age_limit(late_s, kind):
    (step,) = decide(waiting(stage_requested("s1")), seconds=LIMITS.lease_age_s + late_s)
    assert isinstance(step, kind)


def test_a_staging_order_of_last_month_gets_no_lease_and_the_next_one_does():
    record = waiting(stage_requested("s1"), stage_requested("s2", 2, seconds=30 * 86_400))
    failed, granted = decide(record, seconds=30 * 86_400)
    assert (failed.code, failed.lease.lease_id) == ("order_expired", "s1")
    assert granted == GrantLease("s2")
