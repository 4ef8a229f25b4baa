"""A quarantined target says so, since when and why; who may lift it sees what that would do, and orders it."""

from typing import Any

import pytest

from contracts import facts as f
from contracts.facts import QuarantineLifted
from services.console.domain.operating import plan_lift
from services.console.domain.rows import instant
from testbed import factories
from testbed.story import Story
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World, data

HELD = "shop-bot.v2.int8"
EVIL = "<script>alert(1)</script>"
PAGE = f"/models/shop-bot/quarantine?target={HELD}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Of shop-bot a person confirmed that version 2 was the cause of an alert; of bank-bot one rolled it back."""
    made: Any = World(tmp_path_factory.mktemp("console"))
    story = Story(NOW)
    events = [
        *story.release("shop-bot", 1, 1),
        *story.release("shop-bot", 2, 2),
        *story.alert("shop-bot"),
    ]
    story.wait(60)
    events += story.decide("shop-bot", "confirm", reason=EVIL)
    events += [*story.release("bank-bot", 1, 3), *story.release("bank-bot", 2, 4)]
    order = story.event(factories.fact(f.RollbackOrdered, reason="Too curt."), "bank-bot", "o-1", by="oscar")
    made.fill([*events, order, *story.rollback("bank-bot", order, mode="manual")])
    made.moved = next(
        event for event in events if isinstance(event.data, f.DeploymentChanged) and event.data.route.quarantined
    )
    made.routes.routes["shop-bot"] = made.moved.data.route
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_orders(world):
    world.orders.given.clear()


def post(world, name, *, model="shop-bot", **fields):
    client = world.client(name)
    about = {"csrf": world.csrf(client), "target": HELD, "epoch": "4", "reason": "It was the network."}
    return client.post(f"/models/{model}/quarantine", data=about | fields)


def test_a_version_says_since_when_why_and_how_to_lift_it(world):
    (shown,) = data(world.client("vera").get("/models/shop-bot/versions/2"), "shown")["quarantined"]
    assert (shown["target"], shown["since"]) == (HELD, instant(world.moved.data.at))
    assert (shown["by"], shown["because"]) == ("oscar", f"confirm {HELD}: {EVIL}")
    page = world.client("vera").get("/models/shop-bot/versions/2").text
    assert '<span class="badge bad">quarantined</span>' in page
    assert "rolled back</span>" not in page
    assert f"slipway quarantine lift {HELD} --reason" in page
    assert EVIL not in page
    assert "Lift …" not in page
    assert "Lift …" in world.client("oscar").get("/models/shop-bot/versions/2").text


def test_the_person_who_rolled_back_is_named(world):
    (held,) = data(world.client("vera").get("/models/bank-bot"), "quarantines")
    assert (held["target"], held["by"], held["because"].split(": ")[-1]) == ("bank-bot.v2.int8", "oscar", "Too curt.")


def test_a_quarantine_that_was_lifted_and_came_again_counts_from_the_second_time(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2), *story.alert("m")]
    served = {"active": factories.served(1, "int8", "m"), "previous": None, "canary": None, "history": ()}
    for epoch, held in ((20, ()), (21, (factories.target(2, "int8", "m"),)), (22, (factories.target(2, "int8", "m"),))):
        story.wait(60)
        events.append(story._moved("m", "x", "restore", epoch=epoch, quarantined=held, cause_id=f"c-{epoch}", **served))
    made.fill(events)
    (held,) = data(made.client("adam").get("/models/m"), "quarantines")
    assert held["since"] == instant(events[-2].data.at)
    made.close()


def test_lifting_is_planned_first_and_needs_a_reason(world, snapshot):
    page = world.client("oscar").get(PAGE).text
    assert page_text(page) == snapshot
    assert world.orders.given == []
    assert (post(world, "oscar", reason="  ").status_code, world.orders.given) == (422, [])
    assert post(world, "oscar").status_code == 303
    ((person, model, fact),) = world.orders.given
    assert isinstance(fact, QuarantineLifted)
    assert (person, model, str(fact.target), fact.epoch) == ("oscar", "shop-bot", HELD, 4)
    assert fact.reason == "It was the network."
    assert fact.expires_at is not None


@pytest.mark.parametrize("name", ["vera", "anna"])
def test_who_may_not_lift_sees_no_button_and_is_refused(world, name):
    assert "Lift the quarantine</button>" not in world.client(name).get(PAGE).text
    assert post(world, name).status_code == 403
    assert world.orders.given == []


def test_a_member_of_a_team_lifts_of_its_models_only(world):
    assert world.client("sam").get("/models/bank-bot/quarantine?target=bank-bot.v2.int8").status_code == 404
    assert post(world, "sam", model="bank-bot", target="bank-bot.v2.int8").status_code == 403
    assert post(world, "sam").status_code == 303


@pytest.mark.parametrize(
    "fields",
    [{"target": ""}, {"target": "faq-de.v1.int8"}, {"epoch": ""}, {"epoch": "²"}, {"csrf": "another"}, {"csrf": ""}],
)
def test_a_form_without_token_target_or_epoch_lifts_nothing(world, fields):
    assert post(world, "oscar", **fields).status_code in (400, 403)
    assert world.orders.given == []


def test_a_plan_says_why_lifting_would_be_refused(world):
    page = world.client("oscar").get("/models/shop-bot/quarantine?target=shop-bot.v1.int8").text
    assert "would be refused" in page
    assert "Lift the quarantine</button>" not in page
    plan = data(world.client("vera").get(PAGE), "plan")
    assert (plan["refused"], plan["quarantined_after"]) == (None, [])


def test_a_plan_keeps_what_else_is_quarantined():
    first, second = factories.target(1), factories.target(2)
    plan = plan_lift(factories.route(quarantined=(first, second)), first)
    assert plan.quarantined_after == (str(second),)
