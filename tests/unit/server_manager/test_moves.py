"""Which routes are to name another endpoint, and which copies nothing needs any more."""

from dataclasses import replace

from contracts.routes import CanaryShare
from contracts.vocabulary import ServingSettings
from decisions.routes.edits import AlreadyApplied, Changed, EditRefused, move
from services.server_manager.domain.kept import plan_kept
from services.server_manager.domain.moves import find_removable, find_removed, find_unpublished, plan_moves
from services.server_manager.domain.reconcile import (
    Action,
    Copies,
    Desired,
    Phase,
    Rank,
    is_moved,
    plan_alone,
    plan_reconcile,
)
from services.server_manager.domain.records import ANSWERED_KEPT, Servers
from services.server_manager.domain.runtimes import may_begin
from services.server_manager.domain.staging import drop_order, enqueue_order, note_move
from tests.unit.server_manager.factories import LIMITS, START, deployable, held, route, served, traffic_requested

TWO = replace(LIMITS, endpoints={"default": "default", "two": "default", "next": "next"})
ADDRESSES = {"default": "127.0.0.1:1", "two": "127.0.0.1:2", "next": "127.0.0.1:3"}
V0, V1, V2 = (str(deployable(version).target) for version in range(3))
SECOND = ("127.0.0.1:2",)


def test_a_target_that_generates_elsewhere_than_its_route_says_is_moved_one_in_each_epoch():
    routes = {"bot": route(1, 0, canary=2, epoch=4)}
    holding = {V1: held(1, endpoint="two"), V0: held(0, endpoint="two"), V2: held(2)}
    (move_of_active,) = plan_moves(routes, holding, ADDRESSES, TWO)
    assert (str(move_of_active.target), move_of_active.endpoints) == (V1, ("two",))
    assert move_of_active.cause_id.startswith(f"moved-{V1}-")
    others = replace(move_of_active, endpoints=("next",)), replace(move_of_active, epoch=5)
    assert len({move.cause_id for move in (move_of_active, *others)}) == 3


def test_what_does_not_generate_or_has_one_endpoint_only_is_not_moved():
    routes = {"bot": route(1)}
    for phase in set(Phase) - {Phase.READY}:
        assert plan_moves(routes, {V1: held(1, phase, endpoint="two")}, ADDRESSES, TWO) == []
    assert plan_moves(routes, {}, ADDRESSES, TWO) == []
    assert plan_moves(routes, {V1: held(1)}, ADDRESSES, TWO) == []
    on_next = routes["bot"].active.model_copy(update={"serving": ServingSettings(runtime="next")})
    alone = {"bot": routes["bot"].model_copy(update={"active": on_next})}
    assert plan_moves(alone, {V1: held(1, endpoint="next")}, ADDRESSES, TWO) == []
    assert plan_moves(routes, {V1: held(1)}, {"default": "elsewhere:1"}, LIMITS) == [], "a fleet with one Triton"


def test_what_is_on_an_endpoint_that_was_removed_is_moved_also_where_one_is_left():
    routes, left = {"bot": route(1, 0)}, {"default": "127.0.0.1:2"}
    (move_of_active,) = plan_moves(routes, {V1: held(1), V0: held(0)}, left, LIMITS, removed=["127.0.0.1:1"])
    assert (str(move_of_active.target), move_of_active.endpoints) == (V1, ("default",))
    assert plan_moves(routes, {V1: held(1, Phase.LOADING)}, left, LIMITS, removed=["127.0.0.1:1"]) == []
    assert plan_moves(routes, {V1: held(1)}, left, LIMITS, removed=["127.0.0.1:7"]) == []
    assert find_removed(routes, ["127.0.0.1:1"]) == {V1: "127.0.0.1:1", V0: "127.0.0.1:1"}
    assert find_removed(routes, ["127.0.0.1:7"]) == {}


def test_a_move_changes_the_endpoints_of_its_target_only_and_raises_the_epoch():
    before = route(1, 0, canary=1, history=(served(1), served(3)), quarantined=(deployable(5).target,))
    edit = move(before, deployable(1).target, SECOND, epoch=before.epoch, cause_id="moved-1")
    assert isinstance(edit, Changed)
    after = edit.route
    assert (after.epoch, after.cause_id, edit.cause) == (before.epoch + 1, "moved-1", "restore")
    assert (after.active.endpoints, after.canary.served.endpoints, after.history[0].endpoints) == (SECOND,) * 3
    assert (after.previous, after.history[1], after.quarantined) == (
        before.previous,
        before.history[1],
        before.quarantined,
    )
    assert after.canary == CanaryShare(served=after.active, weight_ratio=before.canary.weight_ratio)
    assert move(after, deployable(1).target, SECOND, epoch=1, cause_id="moved-1") == AlreadyApplied(after)
    assert isinstance(move(before, deployable(9).target, SECOND, epoch=before.epoch, cause_id="m"), EditRefused)
    again = move(after, deployable(1).target, SECOND, epoch=after.epoch, cause_id="m")
    assert isinstance(again, EditRefused), "it is there already"
    late = move(after, deployable(0).target, SECOND, epoch=before.epoch, cause_id="m")
    assert (late.code, late.reason) == ("stale_epoch", "The move was planned for epoch 1, the route is at 2.")


def test_a_moved_route_is_published_until_that_is_recorded():
    moved = route(1, cause_id="moved-x")
    routes = {"bot": moved, "cat": route(1, model="cat", cause_id="an order")}
    assert find_unpublished(routes, ()) == [moved]
    assert find_unpublished(routes, ("moved-x",)) == []


def test_a_move_stays_recorded_as_published_until_the_next_one_of_its_model_whatever_orders_come():
    record = note_move(note_move(Servers(), "cat", "moved-cat.x-1"), "bot", "moved-bot.x-1")
    assert note_move(record, "bot", "moved-bot.x-1") == record
    for number in range(ANSWERED_KEPT + 5):
        event = traffic_requested(f"t{number}")
        record = drop_order(enqueue_order(record, event, START), event.id)
    assert {"moved-cat.x-1", "moved-bot.x-1"} <= set(record.answered)
    assert len(record.answered) == ANSWERED_KEPT + 2
    record = note_move(record, "bot", "moved-bot.x-2")
    assert ("moved-bot.x-1" in record.answered, "moved-bot.x-2" in record.answered) == (False, True)


def test_a_copy_goes_once_its_target_generates_elsewhere_and_no_route_names_the_copy():
    copy = ("default", V1)
    there = {V1: held(1, endpoint="two")}
    assert find_removable([copy], there, {V1: ("two",)}, {"default"}) == {copy}
    assert find_removable([copy], there, {}, {"default"}) == {copy}
    assert find_removable([copy], there, {V1: ("default",)}, {"default"}) == set()
    assert find_removable([copy], there, {V1: ("two",)}, set()) == set(), "its endpoint is silent"
    assert find_removable([copy], {V1: held(1, Phase.LOADING, endpoint="two")}, {V1: ("two",)}, {"default"}) == set()
    assert find_removable([copy], {}, {V1: ("two",)}, {"default"}) == set()


def test_a_copy_stays_where_no_route_or_none_that_can_be_read_says_which_endpoint_serves():
    copy, there = ("default", V1), {V1: held(1, endpoint="two")}
    usable = {"default", "two"}
    missing = plan_kept({}, (), (), there)
    assert find_removable([copy], there, {}, usable, missing) == set(), "gateways may send there by their last route"
    temporary = plan_kept({}, (), (deployable(1).target,), there)
    assert find_removable([copy], there, {}, usable, temporary) == {copy}, "it was loaded for a staging only"
    unreadable = plan_kept({"bot"}, ("bot",), (), there)
    assert find_removable([copy], there, {V1: "two"}, usable, unreadable) == set()
    assert find_removable([copy], there, {V1: "three"}, usable) == set(), "the route names a third endpoint so far"


def test_what_is_moved_is_loaded_where_it_belongs_though_its_endpoint_is_silent_and_not_without_the_bus():
    desired = {V1: Desired(deployable(1), Rank.PRODUCTION)}
    holding, homes = {V1: held(1)}, {V1: "two"}
    load = Action("load", V1, deployable(1), "two")
    assert plan_reconcile(desired, holding, TWO, homes=homes) == [load]
    assert may_begin(load, holding, {"two"})
    assert not may_begin(load, holding, {"default"})
    assert plan_alone(desired, holding, TWO, homes) == []
    assert not is_moved(holding[V1], "next", TWO), "another runtime is another matter: a new release"


def test_the_copy_that_is_left_behind_takes_its_memory_until_it_is_gone():
    desired = {V2: Desired(deployable(2), Rank.PRODUCTION)}
    tight = replace(TWO, memory_budget_bytes=300)
    left = Copies({("default", V1): held(1)})
    assert plan_reconcile(desired, {}, tight, homes={V2: "two"}, copies=left) == []
    assert plan_reconcile(desired, {}, tight, homes={V2: "two"}) == [Action("load", V2, deployable(2), "two")]
