"""Rollbacks that are ordered at the gateway: who may, when they count, and that they end with a newer route."""

import base64
import dataclasses
import json
from datetime import timedelta

import nkeys
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.gateway_rollbacks import PATH, VALID, PerformedRollback, RollbackAnswer, SignedGatewayRollback
from contracts.routes import CanaryShare, Route
from decisions.gateway_rollbacks import apply_order, overridden
from decisions.orders import CLOCK_SKEW
from decisions.rollback import rollback_id
from decisions.route_edits import Changed, move, promote, roll_back
from services.gateway.adapters.record_file import RecordFile
from services.gateway.performed_rollbacks import MOST_WAITING, Performed, PerformedRollbacks
from services.gateway.rollback_endpoint import BURST, MOST_BYTES
from services.gateway.route_table import RouteTable
from testbed.administrators import credential, listed, public_key, rollback_order, signed_rollback
from testbed.factories import MODEL, served
from tests.kit.soak import often
from tests.unit.gateway.fakes import FakeRollbackLog, StepClock
from tests.unit.gateway.world import World

V5, V6, V7, V8 = (served(version) for version in (5, 6, 7, 8))
ROUTE = Route(model=MODEL, epoch=9, active=V7, previous=V6, history=(V5,), cause_id="promoted")
ADMIN, OTHER = credential("admin"), credential("admin")


class Place:
    """A gateway's part that performs rollbacks, with everything beside it."""

    def __init__(self, folder, route=ROUTE, routes=None) -> None:
        self.clock = StepClock()
        self.log = FakeRollbackLog()
        self.table = RouteTable(routes if routes is not None else {route.model: route}, None, clock=self.clock)
        self.file = RecordFile(folder / "rollbacks.json", PerformedRollback)
        self.administrators = listed(folder / "administrators.json", ADMIN)
        self.rollbacks = PerformedRollbacks(self.table, self.file, self.log, self.administrators, self.clock)

    def order(self, target=V7.target, epoch=9, by=ADMIN, **changes) -> SignedGatewayRollback:
        return signed_rollback(by, target, epoch, self.clock.now(), **changes)

    async def perform(self, *about, **changes):
        return await self.rollbacks.perform(self.order(*about, **changes))

    @property
    def active(self):
        return self.table.get(MODEL).active.target.version

    async def report(self) -> None:
        """Run the report once."""

        async def end(_delay_s):
            raise EOFError

        with pytest.raises(EOFError):
            await self.rollbacks.report(end)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


async def test_an_administrators_order_moves_traffic_and_survives_a_restart(place, tmp_path):
    done = await place.perform()
    assert isinstance(done, Performed)
    assert (place.active, place.table.get(MODEL).epoch, done.outcome) == (6, 10, "waiting")
    assert place.table.get(MODEL).is_quarantined(V7.target)
    assert Place(tmp_path).active == 6
    assert "rolled back here" in place.table.problem


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"by": OTHER}, "key_not_trusted"),
        ({"administrator": "maria"}, "signature_invalid"),
        ({"epoch": 8}, "stale_epoch"),
        ({"epoch": 10}, "stale_epoch"),
        ({"epoch": None}, "stale_epoch"),
        ({"target": V6.target}, "not_in_traffic"),
        ({"target": V7.target.model_copy(update={"model": "other-bot"})}, "not_in_traffic"),
        ({"model": "other-bot"}, "not_in_traffic"),
        ({"failed": None}, "malformed_event"),
    ],
)
async def test_what_is_not_an_administrators_order_for_this_route_changes_nothing(place, changes, code):
    refused = await place.perform(**changes)
    assert (refused.code, place.active, place.file.load()) == (code, 7, {})


@pytest.mark.parametrize(
    ("issued_s", "until_s", "counts"),
    [
        (0, VALID.total_seconds(), True),
        (-VALID.total_seconds() + 5, 60, True),
        (-VALID.total_seconds() - 5, 3600, False),
        (-60, -5, False),
        (CLOCK_SKEW.total_seconds() - 5, 600, True),
        (CLOCK_SKEW.total_seconds() + 5, 600, False),
    ],
)
async def test_an_order_counts_for_minutes_whatever_it_says(place, issued_s, until_s, counts):
    now = place.clock.now()
    times = {"issued_at": now + timedelta(seconds=issued_s), "expires_at": now + timedelta(seconds=until_s)}
    done = await place.perform(**times)
    assert (isinstance(done, Performed), place.active) == (counts, 6 if counts else 7)
    if not counts:
        assert done.code == "order_expired"


@pytest.mark.parametrize("part", ["payload", "signature", "public_key"])
async def test_an_altered_order_changes_nothing(place, part):
    signed = place.order()
    altered = {
        "payload": signed.payload.replace('"epoch":9', '"epoch": 9'),
        "signature": ("A" if signed.signature[0] != "A" else "B") + signed.signature[1:],
        "public_key": "UA" + signed.public_key[2:-1] + ("A" if signed.public_key[-1] != "A" else "B"),
    }
    refused = await place.rollbacks.perform(signed.model_copy(update={part: altered[part]}))
    assert (refused.code, place.active) == ("key_not_trusted" if part == "public_key" else "signature_invalid", 7)


async def test_what_a_bus_has_an_administrator_sign_is_no_order(place):
    """A bus chooses a text that a client signs to connect: it is not what an order's signature is over."""
    signed = place.order()
    pair = nkeys.from_seed(bytearray(ADMIN.seed.get_secret_value().encode()))
    for text in (signed.payload, "\xffslipway.gateway-rollback.v1\n" + signed.payload):
        forged = base64.b64encode(pair.sign(text.encode())).decode()
        refused = await place.rollbacks.perform(signed.model_copy(update={"signature": forged}))
        assert (refused.code, place.active) == ("signature_invalid", 7)


async def test_the_same_order_again_is_answered_and_changes_nothing(place):
    signed = place.order()
    await place.rollbacks.perform(signed)
    again = await place.rollbacks.perform(signed)
    assert (again.outcome, again.after.epoch, len(place.file.load())) == ("waiting", 10, 1)
    other = place.order(V6.target, 10, order_id=json.loads(signed.payload)["order_id"])
    assert (await place.rollbacks.perform(other)).code == "malformed_event"


async def test_an_order_counts_though_the_bus_answers_if_its_administrator_says_that_it_stores_nothing(place):
    place.log.connected = True
    assert isinstance(await place.perform(read_only_bus=True), Performed)
    assert place.active == 6
    assert (await place.perform(V6.target, 9, by=OTHER, read_only_bus=True)).code == "key_not_trusted"


async def test_an_order_is_refused_while_the_bus_answers_unless_it_only_asks(place):
    place.log.connected = True
    assert ((await place.perform()).code, place.active) == ("bus_available", 7)
    refused = await place.perform()
    assert refused.reason.endswith("because its disk is full, add --read-only-bus.")
    planned = await place.perform(target=V7.target, epoch=None, failed=None, plan_only=True)
    assert (planned.order.failed, planned.before.epoch, planned.after.active, place.active) == (V7.target, 9, V6, 7)
    assert place.file.load() == {}


async def test_a_second_rollback_names_its_target_and_follows_the_first(place):
    await place.perform()
    unnamed = await place.perform(V7.target, None, failed=None, plan_only=True)
    assert "--target" in unnamed.reason
    await place.perform(V6.target, 10)
    assert (place.active, place.table.get(MODEL).epoch) == (5, 11)


async def test_a_newer_route_from_the_bus_ends_it_and_the_same_one_does_not(place):
    await place.perform()
    await place.table.apply(MODEL, ROUTE, 3)
    assert place.active == 6
    newer = promote(ROUTE, V8, weight_ratio=1.0, epoch=9, cause_id="x").route
    await place.table.apply(MODEL, newer, 4)
    assert (place.active, place.table.problem) == (8, "")


def moved(route, target, number):
    """Return a route after a target of it was loaded on another endpoint."""
    endpoints = (f"10.0.0.{number}:8001",)
    return move(route, target, endpoints, epoch=route.epoch, cause_id=f"moved-{number}").route


async def test_a_move_of_endpoints_ends_no_rollback_and_its_new_endpoints_are_used(place):
    """A partition may last until production of a silent Triton is loaded on another one, and its route edited."""
    await place.perform()
    await place.table.apply(MODEL, moved(moved(ROUTE, V6.target, 1), V7.target, 2), 4)
    assert (place.active, place.table.get(MODEL).active.endpoints) == (6, ("10.0.0.1:8001",))
    assert place.table.get(MODEL).is_quarantined(V7.target)
    assert (await place.perform(V7.target, 9)).code == "stale_epoch"


async def test_rollbacks_that_follow_from_each_other_survive_a_move_between_and_after_them(place):
    await place.perform(V7.target, 9)
    await place.table.apply(MODEL, moved(ROUTE, V5.target, 1), 4)
    await place.perform(V6.target, place.table.get(MODEL).epoch)
    assert (place.active, place.table.get(MODEL).active.endpoints) == (5, ("10.0.0.1:8001",))
    await place.table.apply(MODEL, moved(place.table.known(MODEL), V5.target, 2), 5)
    assert (place.active, place.table.get(MODEL).active.endpoints) == (5, ("10.0.0.2:8001",))


async def test_rollbacks_that_follow_from_each_other_survive_a_move_after_the_first_was_applied(place):
    """Traffic must not return to what the second one removed while its report waits."""
    orders = [place.order(V7.target, 9), place.order(V6.target, 10)]
    for order in orders:
        await place.rollbacks.perform(order)
    on_bus = moved(moved(ROUTE, V6.target, 1), V7.target, 2)
    for number, order in enumerate(orders):
        failed = (V7, V6)[number].target
        on_bus = roll_back(on_bus, failed, cause_id=rollback_id(json.loads(order.payload)["order_id"])).route
        await place.table.apply(MODEL, on_bus, 4 + 2 * number)
        on_bus = moved(on_bus, V5.target, 3 + number)
        await place.table.apply(MODEL, on_bus, 5 + 2 * number)
        assert (place.active, place.table.get(MODEL).active.endpoints) == (5, (f"10.0.0.{3 + number}:8001",))
    assert (place.table.get(MODEL).epoch, place.table.problem) == (on_bus.epoch, "")


@given(st.lists(st.sampled_from(["order", "move 5", "move 6", "move 7", "apply"]), max_size=12))
@settings(max_examples=often(80), deadline=None)
def test_while_the_bus_only_moves_targets_and_applies_what_was_performed_gateways_serve_the_same_versions(drawn):
    """As the rollback-controller does: in their order, each by `apply_order` after the one that led to the route."""
    route, orders, applied = ROUTE, [], 0
    at = StepClock().now()
    for number, step in enumerate(drawn):
        before = overridden(route, orders)
        if step == "order":
            order = rollback_order(before.active.target, before.epoch, at, order_id=f"{number:032x}")
            if isinstance(apply_order(before, order), Route):
                orders.append(order)
            continue
        if step == "apply":
            led_here = [order.epoch for order in orders if rollback_id(order.order_id) == route.last_edit_id]
            if applied < len(orders):
                route, applied = apply_order(route, orders[applied], *led_here), applied + 1
                assert isinstance(route, Route), "what was performed at gateways is not refused"
        elif isinstance(edit := edited("move", route, int(step[-1]), f"{number}"), Changed):
            route = edit.route
        assert _targets(overridden(route, orders)) == _targets(before)


async def test_what_followed_a_move_ends_a_rollback_though_it_is_of_the_epoch_that_it_was_ordered_for(place):
    newer = promote(moved(ROUTE, V6.target, 1), V8, weight_ratio=1.0, epoch=10, cause_id="x").route
    await place.perform()
    await place.table.apply(MODEL, moved(newer, V6.target, 2), 4)
    assert (place.active, place.table.problem) == (8, "")


async def test_it_is_reported_once_the_bus_is_back_and_ends_if_it_is_refused_there(place):
    signed = place.order()
    await place.rollbacks.perform(signed)
    await place.report()
    assert place.log.reports == []
    place.log.connected = True
    await place.report()
    order_id = json.loads(signed.payload)["order_id"]
    [(reported, model, fact)] = place.log.reports
    assert (reported, model, fact.order, place.active) == (order_id, MODEL, signed, 6)
    answer = RollbackAnswer(
        order_id=order_id,
        order_digest=signed.model_copy(update={"public_key": public_key(OTHER)}).digest,
        model=MODEL,
        outcome="refused",
        code="key_not_trusted",
        answered_at=place.clock.now(),
    )
    place.log.replies[signed.digest] = answer
    await place.report()
    assert (place.active, place.file.load()[order_id].outcome) == (6, "waiting")  # about the same text with another key
    place.log.replies[signed.digest] = answer.model_copy(update={"order_digest": signed.digest})
    await place.report()
    assert (place.active, place.file.load()[order_id].code) == (7, "key_not_trusted")
    assert (await place.rollbacks.perform(signed)).outcome == "refused"


async def test_a_rollback_that_followed_from_another_is_reported_after_the_answer_to_that(place):
    first, second = place.order(), place.order(V6.target, 10)
    for signed in (first, second):
        await place.rollbacks.perform(signed)
    place.log.connected = True
    await place.report()
    await place.report()
    assert [fact.order for _, _, fact in place.log.reports] == [first]
    place.log.replies[first.digest] = RollbackAnswer(
        order_id=json.loads(first.payload)["order_id"],
        order_digest=first.digest,
        model=MODEL,
        outcome="applied",
        answered_at=place.clock.now(),
    )
    await place.report()
    await place.report()
    assert [fact.order for _, _, fact in place.log.reports] == [first, second]


async def test_what_was_applied_counts_until_its_route_arrives(place):
    signed = place.order()
    await place.rollbacks.perform(signed)
    order_id, place.log.connected = json.loads(signed.payload)["order_id"], True
    place.log.replies[signed.digest] = RollbackAnswer(
        order_id=order_id,
        order_digest=signed.digest,
        model=MODEL,
        outcome="applied",
        answered_at=place.clock.now(),
    )
    await place.report()
    assert place.active == 6
    await place.table.apply(MODEL, roll_back(ROUTE, V7.target, cause_id=rollback_id(order_id)).route, 5)
    assert (place.active, place.table.problem, place.table.get(MODEL).epoch) == (6, "", 10)


async def test_another_worker_serves_it_too(place, tmp_path):
    beside = Place(tmp_path)
    await place.perform()
    assert beside.active == 7
    beside.rollbacks.refresh()
    assert beside.active == 6


async def test_what_cannot_be_saved_is_not_performed(place, tmp_path):
    (tmp_path / "rollbacks.json").mkdir()
    assert ((await place.perform()).code, place.active) == ("disk_full", 7)


async def test_waiting_rollbacks_are_bounded_and_answered_ones_are_forgotten(tmp_path):
    names = [f"bot-{number}" for number in range(MOST_WAITING + 1)]
    at = {name: served(7, model=name) for name in names}
    routes = {
        name: Route(model=name, epoch=9, active=at[name], previous=served(6, model=name), cause_id="p")
        for name in names
    }
    place = Place(tmp_path, routes=routes)
    done = [await place.perform(at[name].target) for name in names]
    assert [getattr(each, "code", None) for each in done] == [None] * MOST_WAITING + ["too_many_rollbacks"]
    answered = {key: record.model_copy(update={"outcome": "applied"}) for key, record in place.file.load().items()}
    place.file.save(answered)
    await place.clock.pause(3600.0)
    assert isinstance(await place.perform(at[names[-1]].target), Performed)
    assert len(place.file.load()) == 1


async def test_a_withdrawn_key_counts_no_more(place, tmp_path):
    listed(tmp_path / "administrators.json", OTHER)
    assert (await place.perform()).code == "key_not_trusted"
    (tmp_path / "administrators.json").write_text("[")
    assert (await place.perform()).code == "key_not_trusted"


@pytest.fixture
def world(place):
    return dataclasses.make_dataclass("Both", ["place", "http"])(
        place, World(ROUTE, rollbacks=place.rollbacks, clock=place.clock).http
    )


async def test_over_http_an_order_is_answered_and_a_refusal_has_a_code_and_advice(world):
    done = await world.http.post(PATH, json=world.place.order().model_dump(mode="json"))
    assert (done.status_code, done.json()["active"], done.json()["epoch"]) == (200, "support-bot.v6.int8", 10)
    for body, status, code in (
        (world.place.order(by=OTHER).model_dump(mode="json"), 403, "key_not_trusted"),
        (world.place.order().model_dump(mode="json"), 409, "stale_epoch"),
        ({"payload": "{}"}, 400, "malformed_event"),
        ([], 400, "malformed_event"),
        ({"payload": "x" * MOST_BYTES}, 413, "request_too_large"),
    ):
        refused = await world.http.post(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), refused.text
    assert (await world.http.get(PATH)).status_code == 405


async def test_orders_that_no_administrator_signed_are_limited_by_address_and_keep_no_other_from_being_performed(world):
    forged = world.place.order(by=OTHER).model_dump(mode="json")
    codes = [(await world.http.post(PATH, json=body)).status_code for body in [{}, forged] * BURST]
    assert codes == [400, 403] * (BURST // 2) + [429] * BURST
    assert (await world.http.post(PATH, json=world.place.order().model_dump(mode="json"))).status_code == 200
    assert world.place.active == 6
    await world.place.clock.pause(1.0)
    assert [(await world.http.post(PATH, json={})).status_code for _ in range(2)] == [400, 429]


async def test_one_administrator_sends_so_many_orders(world):
    signed = world.place.order().model_dump(mode="json")
    codes = [(await world.http.post(PATH, json=signed)).status_code for _ in range(BURST + 1)]
    assert codes == [200] * BURST + [429]
    await world.place.clock.pause(1.0)
    assert (await world.http.post(PATH, json=signed)).status_code == 200


def edited(what, route, version, cause):
    if what == "roll_back":
        return roll_back(route, served(version).target, cause_id=cause)
    if what == "move":
        return move(route, served(version).target, (f"10.0.0.{cause}:1",), epoch=route.epoch, cause_id=cause)
    return promote(route, served(version), weight_ratio=1.0, epoch=route.epoch, cause_id=cause)


def _targets(route):
    serving = (route.active, route.canary and route.canary.served, route.previous, *route.history)
    return [each and each.target for each in serving], set(route.quarantined)


def steps():
    """Draw what may happen to a route: edits on the bus, and orders at a gateway for any target and epoch."""
    version = st.sampled_from([5, 6, 7, 8])
    edits = st.tuples(st.sampled_from(["promote", "roll_back", "move"]), version)
    orders = st.tuples(st.just("order"), version, st.integers(8, 14))
    return st.lists(st.one_of(edits, orders), max_size=8)


@given(steps(), st.booleans())
@settings(max_examples=often(80), deadline=None)
def test_orders_never_revive_a_quarantined_target_and_end_with_a_newer_route(drawn, canary):
    share = CanaryShare(served=V8, weight_ratio=0.2) if canary else None
    route, orders = ROUTE.model_copy(update={"canary": share}), []
    at = StepClock().now()
    for number, (what, version, *epoch) in enumerate(drawn):
        target = served(version).target
        if what == "order":
            order = rollback_order(target, epoch[0], at, order_id=f"{number:032x}")
            if isinstance(apply_order(overridden(route, orders), order), Route):
                orders.append(order)
        else:
            before = overridden(route, orders)
            edit = edited(what, route, version, f"{number}")
            route = getattr(edit, "route", route)
            if what == "move":
                assert _targets(overridden(route, orders)) == _targets(before), "a move ends no order"
        after = overridden(route, orders)
        assert overridden(route, orders) == after, "the same orders lead to the same route"
        assert after.epoch >= route.epoch
        assert set(route.quarantined) <= set(after.quarantined)
        serving = [each for each in (after.active, after.previous, *after.history) if each is not None]
        assert not {each.target for each in serving} & set(after.quarantined)
        if all(order.epoch < route.epoch - route.moves for order in orders):
            assert after == route
        assert overridden(after, orders) == after, "on the route that they led to, they change nothing"
