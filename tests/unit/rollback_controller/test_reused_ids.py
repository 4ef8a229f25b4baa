"""Orders with the id of another event: refused for that, and never acknowledged without an answer."""

import asyncio

import pytest

from contracts import facts as cf
from services.rollback_controller.domain import decision
from services.rollback_controller.domain.decision import Cause, VoidOrder
from testbed import factories as f
from tests.kit.fake_bus import Message
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.decisions import RULES, alert, route, state, switch, take
from tests.unit.rollback_controller.world import World

DEDUPED_S = 200.0
"""Longer than the log recognises an id."""


def order(version=7):
    return cf.RollbackOrdered(reason="odd", failed=f.target(version))


def cause(sequence, fact_id="rb-bot"):
    return Cause(fact_id, "r-7", f.after(0), f.after(0), f.after(0), sequence)


def refused(sequence):
    void = decision.decide_on_order(state(), order(), route(5, 4), cause(sequence), RULES)
    return decision.record_refusal(state(), order(), route(5, 4), cause(sequence), void)


def carried_out(sequence):
    return switch(decision.decide_on_order(state(), order(), route(), cause(sequence), RULES))


@virtual_time
async def test_an_order_with_the_id_of_a_refused_one_is_not_refused_for_the_reason_of_that_one():
    world = World()
    world.serve(5, 4)
    world.start()
    world.publish(order(), event_id="rb-bot")
    await asyncio.sleep(DEDUPED_S)
    world.serve(7, 6, epoch=13, cause_id="p-7")
    world.publish(order(), event_id="rb-bot")
    await asyncio.sleep(5)
    assert [failed.code for failed in world.log.facts(cf.RollbackFailed)] == ["not_in_traffic"]
    (answer,) = world.log.facts(cf.OrderRefused)
    assert (answer.order_id, answer.code) == ("rb-bot", "malformed_event")
    assert "rb-bot" in answer.reason
    assert "give each event its own id" in answer.reason
    assert world.streams.unacknowledged() == world.streams.dead_letters == []
    world.publish(order())
    await asyncio.sleep(5)
    assert world.route().active.target == f.target(6), "with an id of its own it is carried out"
    world.check()
    await world.stop()


@virtual_time
async def test_an_order_with_the_id_of_one_that_was_carried_out_is_answered():
    world = World()
    world.serve()
    world.start()
    world.publish(order(), event_id="rb-bot")
    await asyncio.sleep(DEDUPED_S)
    world.publish(order(6), event_id="rb-bot")
    await asyncio.sleep(5)
    assert [answer.code for answer in world.log.facts(cf.OrderRefused)] == ["malformed_event"]
    assert world.log.facts(cf.RollbackFailed) == [], "the rollback of that id has not failed"
    assert world.route().active.target == f.target(6)
    world.check()
    world.check_ends()
    await world.stop()


@pytest.mark.parametrize(("serving", "codes"), [(7, set()), (5, {"not_in_traffic"})], ids=["carried out", "refused"])
@virtual_time
async def test_an_order_that_is_delivered_again_is_answered_as_the_first_time(serving, codes):
    world = World()
    world.serve(serving, 4)
    world.start()
    event = world.publish(order(), event_id="rb-bot")
    await asyncio.sleep(DEDUPED_S)
    stored = next(message for message in world.log.stored if message.event.id == event.id)
    world.streams.put(Message(stored.sequence, event, stored.stored_at))
    world.bus.deliver()
    await asyncio.sleep(5)
    assert world.log.facts(cf.OrderRefused) == []
    assert {failed.code for failed in world.log.facts(cf.RollbackFailed)} == codes
    assert world.streams.unacknowledged() == []
    await world.stop()


@pytest.mark.parametrize("known", [refused, carried_out])
def test_the_place_in_the_log_tells_a_repetition_from_another_order(known):
    before = known(5)
    assert before.rollbacks[0].cause_sequence == 5
    again = decision.decide_on_order(before, order(), route(), cause(5), RULES)
    assert again is before if known is carried_out else again.code == "not_in_traffic"
    another = decision.decide_on_order(before, order(), route(), cause(6), RULES)
    assert isinstance(another, VoidOrder)
    assert another.code == "malformed_event"
    assert decision.record_refusal(before, order(), route(), cause(6), another) is before


def test_an_order_with_the_id_of_an_alert_is_refused():
    before = switch(take(state(), alert(), fact_id="rb-bot"))
    void = decision.decide_on_order(before, order(), route(), cause(6), RULES)
    assert isinstance(void, VoidOrder)
    assert void.code == "malformed_event"
