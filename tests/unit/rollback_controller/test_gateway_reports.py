"""Rollbacks that gateways report: applied once, whoever reports them and whatever is killed, or refused and answered."""

import asyncio
import json
from datetime import timedelta

import pytest

from contracts import facts as cf
from contracts.gateway_rollbacks import VALID, RollbackAnswer
from decisions import route_edits
from decisions.orders import CLOCK_SKEW
from decisions.rollback import rollback_id
from shared.storage.record_format import parse
from testbed import factories as f
from testbed.administrators import credential, listed, signed_rollback
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World

ADMIN = credential("maria")


def report(world, version=7, epoch=None, by=ADMIN, **changes):
    epoch = world.route().epoch if epoch is None else epoch
    changes.setdefault("administrator", "maria")
    order = signed_rollback(by, f.target(version), epoch, world.clock.now(), **changes)
    return cf.RollbackReported(order=order, performed_at=world.clock.now())


def order_id(fact):
    return json.loads(fact.order.payload)["order_id"]


def answer(world, fact):
    stored = world.answers.data.get(fact.order.digest.removeprefix("sha256:"))
    return parse(RollbackAnswer, stored[1], "answers")[0] if stored else None


@pytest.fixture
def world(tmp_path):
    world = World()
    world.administrators = listed(tmp_path / "administrators.json", ADMIN)
    world.serve()
    return world


def test_a_report_moves_the_route_without_a_probe_and_names_the_administrator(world):
    @virtual_time
    async def play():
        world.start()
        world.probe.unloaded.add(str(f.target(6)))
        fact = report(world)
        for number in range(3):
            world.publish(fact, event_id=f"g-{number}")
        await asyncio.sleep(1)
        route = world.route()
        assert (route.active.target, route.quarantined, route.epoch) == (f.target(6), (f.target(7),), 13)
        assert route.cause_id == rollback_id(order_id(fact))
        assert (answer(world, fact).outcome, len(world.log.facts(cf.RollbackStarted))) == ("applied", 1)
        (kept,) = world.state().rollbacks
        assert (kept.reason, kept.origin, kept.mode) == ("maria: Rude answers.", "gateway", "manual")
        await world.stop()

    play()


@pytest.mark.parametrize(
    ("changes", "code", "answered"),
    [
        ({"by": credential("maria")}, "key_not_trusted", True),
        ({"administrator": "jonas"}, "signature_invalid", False),
        ({"epoch": 11}, "stale_epoch", True),
        ({"version": 6}, "not_in_traffic", True),
        ({"model": "other-bot"}, "malformed_event", False),
        ({"plan_only": True}, "malformed_event", False),
    ],
)
def test_what_no_administrator_ordered_for_this_route_is_refused_and_answered(world, changes, code, answered):
    @virtual_time
    async def play():
        world.start()
        before, fact = world.route(), report(world, **changes)
        world.publish(fact)
        await asyncio.sleep(1)
        (refused,) = world.log.facts(cf.OrderRefused)
        assert (refused.code, refused.order_id, world.route()) == (code, order_id(fact), before)
        assert refused.actor == ("" if code in ("key_not_trusted", "signature_invalid") else "maria")
        stored = answer(world, fact)
        assert (stored.outcome, stored.code) == ("refused", code) if answered else stored is None
        await world.stop()

    play()


def move(world, version, number):
    """Have a target of the route loaded on another endpoint, as server-manager does."""
    route = world.route()
    edit = route_edits.move(route, f.target(version), (f"10.0.0.{number}:1",), epoch=route.epoch, cause_id=f"m{number}")
    world.routes.set("production", edit.route)


def test_reports_of_rollbacks_before_and_between_moves_are_applied(world):
    """A partition may last until server-manager has loaded production of a silent Triton on another one."""

    @virtual_time
    async def play():
        first, second = report(world, 7), report(world, 6, epoch=world.route().epoch + 1)
        move(world, 6, 1)
        move(world, 5, 2)
        world.start()
        world.publish(first)
        await asyncio.sleep(1)
        world.publish(second)
        await asyncio.sleep(1)
        route = world.route()
        assert (route.active.target, route.active.endpoints) == (f.target(5), ("10.0.0.2:1",))
        assert set(route.quarantined) == {f.target(7), f.target(6)}
        assert [answer(world, fact).outcome for fact in (first, second)] == ["applied", "applied"]
        await world.stop()

    play()


def test_what_followed_from_a_rollback_is_applied_though_a_target_was_moved_between_the_reports(world):
    """Server-manager moves production, as after an outage, while the second report waits for the answer to the first."""

    @virtual_time
    async def play():
        epoch = world.route().epoch
        first, second = report(world, 7, epoch), report(world, 6, epoch + 1)
        move(world, 6, 1)
        move(world, 5, 2)
        world.start()
        world.publish(first)
        await asyncio.sleep(1)
        move(world, 5, 3)
        move(world, 6, 4)
        world.publish(second)
        await asyncio.sleep(1)
        assert [answer(world, fact).outcome for fact in (first, second)] == ["applied", "applied"]
        route = world.route()
        assert (route.active.target, route.active.endpoints) == (f.target(5), ("10.0.0.3:1",))
        assert set(route.quarantined) == {f.target(7), f.target(6)}
        await world.stop()

    play()


def test_what_followed_from_a_rollback_is_refused_once_more_than_endpoints_have_changed(world):
    @virtual_time
    async def play():
        epoch = world.route().epoch
        first, second = report(world, 7, epoch), report(world, 6, epoch + 1)
        move(world, 6, 1)
        world.start()
        world.publish(first)
        await asyncio.sleep(1)
        route = world.route()
        edit = route_edits.promote(route, f.served(8), weight_ratio=0.2, epoch=route.epoch, cause_id="t8")
        world.routes.set("production", edit.route)
        move(world, 5, 2)
        world.publish(second)
        await asyncio.sleep(1)
        assert (answer(world, second).code, world.route().active.target) == ("stale_epoch", f.target(6))
        await world.stop()

    play()


@pytest.mark.parametrize(("names", "moved"), [(True, True), (False, False)])
def test_an_operators_order_that_names_its_target_survives_a_move(world, names, moved):
    @virtual_time
    async def play():
        order = cf.RollbackOrdered(
            failed=f.target(7) if names else None, epoch=world.route().epoch, reason="Rude answers."
        )
        move(world, 6, 1)
        world.start()
        world.publish(order)
        await asyncio.sleep(1)
        assert (world.route().active.target == f.target(6)) is moved
        await world.stop()

    play()


@pytest.mark.parametrize(
    ("performed", "code"),
    [
        (timedelta(), None),
        (VALID - timedelta(seconds=1), None),
        (-CLOCK_SKEW, None),  # the gateway's clock is behind
        (VALID, "order_expired"),
        (timedelta(days=3), "order_expired"),
        (-CLOCK_SKEW - timedelta(seconds=1), "order_expired"),
    ],
)
def test_an_order_counts_only_if_it_was_performed_while_it_was_valid(world, performed, code):
    @virtual_time
    async def play():
        world.start()
        issued = world.clock.now() - timedelta(days=4)
        fact = report(world, issued_at=issued, expires_at=issued + VALID)
        world.publish(fact.model_copy(update={"performed_at": issued + performed}))
        await asyncio.sleep(1)
        assert (answer(world, fact).code, world.route().active.target) == (code, f.target(7 if code else 6))
        await world.stop()

    play()


def test_a_report_from_the_future_is_refused(world):
    @virtual_time
    async def play():
        world.start()
        issued = world.clock.now() + timedelta(hours=1)
        fact = report(world, issued_at=issued, expires_at=issued + VALID)
        world.publish(fact.model_copy(update={"performed_at": issued}))
        await asyncio.sleep(1)
        assert (answer(world, fact).code, world.route().active.target) == ("order_expired", f.target(7))
        await world.stop()

    play()


@pytest.mark.parametrize("forged_first", [True, False])
def test_a_report_of_the_same_payload_with_another_key_does_not_answer_the_order(world, forged_first):
    @virtual_time
    async def play():
        world.start()
        fact = report(world)
        other = report(world, by=credential("eve")).order.public_key
        forged = fact.model_copy(update={"order": fact.order.model_copy(update={"public_key": other})})
        sent = [forged, fact, forged] if forged_first else [fact, forged]
        for number, each in enumerate(sent):
            world.publish(each, event_id=f"g-{number}")
            await asyncio.sleep(1)
            if each is forged:
                assert answer(world, forged).code == "key_not_trusted"
        assert (answer(world, fact).outcome, answer(world, fact).order_digest) == ("applied", fact.order.digest)
        assert len(world.log.facts(cf.RollbackStarted)) == 1
        await world.stop()

    play()


def test_an_altered_report_says_nothing_about_the_order_that_it_was_made_from(world):
    @virtual_time
    async def play():
        world.start()
        fact = report(world)
        altered = fact.order.model_copy(update={"payload": fact.order.payload.replace("Rude", "Nice")})
        world.publish(fact.model_copy(update={"order": altered}), event_id="g-1")
        await asyncio.sleep(1)
        assert answer(world, fact) is None
        world.publish(fact, event_id="g-2")
        await asyncio.sleep(1)
        assert (answer(world, fact).outcome, world.route().active.target) == ("applied", f.target(6))
        await world.stop()

    play()
