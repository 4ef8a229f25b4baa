"""Drills that are ordered at the console: what would happen first, then the order of a person who may."""

import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from contracts import facts as f
from contracts.facts import DrillFault, DrillOrdered
from services.console.domain.drill_form import FAULTS, DrillForm
from services.console.domain.operating import plan_drill
from testbed import factories
from testbed.story import Story
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World

TARGET = "shop-bot.v2.int8"
ASKED = {"target": TARGET, "fault": "delay_ms", "value": "1500", "percent": "90", "minutes": "2"}


@pytest.fixture
def world(tmp_path):
    made: Any = World(tmp_path)
    made.story = story = Story(NOW - timedelta(hours=1))
    made.events = [*story.release("shop-bot", 1, 1), *story.release("shop-bot", 2, 2)]
    made.fill(made.events)
    made.routes.routes["shop-bot"] = story._routes["shop-bot"]
    yield made
    made.close()


def test_a_drill_of_a_target_without_automatic_triggers_promises_no_rollback(world):
    for event in world.events:
        if isinstance(event.data, f.ReleaseOpened):
            manual = tuple(t.model_copy(update={"action": "manual"}) for t in event.data.policy.triggers)
            policy = event.data.policy.model_copy(update={"triggers": manual})
            data = event.data.model_copy(update={"policy": policy})
            world.events[world.events.index(event)] = event.model_copy(update={"data": data})
    world.index.clear()
    world.fill(world.events)
    page = world.client("oscar").get("/models/shop-bot/drill", params=ASKED).text
    assert f"no trigger of {TARGET} is automatic" in page
    assert "is rolled back to" not in page


def order(story, share=0.9, *, answer=f.OrderAccepted, minutes=10):
    """Return an order of a drill and its answer."""
    about = {
        "target": factories.target(2, "int8", "shop-bot"), "environment": "production", "share_ratio": share,
        "reason": "Quarterly.", "fault": DrillFault(delay_ms=1500), "expires_at": NOW + timedelta(minutes=minutes),
    }  # fmt: skip
    ordered = story.event(factories.fact(DrillOrdered, **about), "shop-bot", "d", by="oscar")
    given = factories.fact(answer, order_id=ordered.id, order_type=DrillOrdered.TYPE, release_id=None)
    return [ordered, story.event(given, "shop-bot", "d")]


def post(world, name, path="/models/shop-bot/drill", **fields):
    client = world.client(name)
    about = {"csrf": world.csrf(client), "epoch": "4", "reason": "Quarterly drill."}
    return client.post(path, data=about | ASKED | fields)


def test_the_page_says_what_would_happen_and_orders_nothing(world, snapshot):
    client = world.client("oscar")
    page = client.get("/models/shop-bot/drill", params=ASKED).text
    assert page_text(page) == snapshot
    assert world.orders.given == []


def test_a_drill_needs_a_reason_and_becomes_the_persons_order(world):
    assert (post(world, "oscar", reason=" ").status_code, world.orders.given) == (422, [])
    assert post(world, "oscar").status_code == 303
    ((person, model, fact),) = world.orders.given
    assert isinstance(fact, DrillOrdered)
    assert (person, model, str(fact.target), fact.environment) == ("oscar", "shop-bot", TARGET, "production")
    assert (fact.fault, fact.share_ratio, fact.epoch) == (DrillFault(delay_ms=1500), 0.9, 4)
    assert fact.expires_at == NOW + timedelta(minutes=2)


@pytest.mark.parametrize("name", ["vera", "anna"])
def test_who_may_not_drill_sees_no_button_and_is_refused(world, name):
    assert "Drill …" not in world.client(name).get("/models/shop-bot").text
    assert "Begin the drill" not in world.client(name).get("/models/shop-bot/drill", params=ASKED).text
    assert post(world, name).status_code == 403
    assert world.orders.given == []
    assert "Drill …" in world.client("oscar").get("/models/shop-bot").text


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"csrf": "x"}, 403),
        ({"target": ""}, 400),
        ({"target": "faq-de.v1.int8"}, 400),
        ({"epoch": "-1"}, 400),
        ({"fault": "nothing"}, 422),
        ({"value": "fast"}, 422),
        ({"value": "0"}, 422),
        ({"minutes": "61"}, 422),
        ({"percent": "0"}, 422),
    ],
)
def test_a_form_that_is_not_valid_orders_nothing(world, fields, status):
    assert post(world, "oscar", **fields).status_code == status
    assert world.orders.given == []


@pytest.mark.parametrize(
    "fields", [{"value": "<b>"}, {"minutes": "a"}, {"percent": "101"}, {"target": ""}, {"fault": "x"}]
)
def test_a_plan_of_values_that_are_not_valid_says_which(world, fields):
    answer = world.client("oscar").get("/models/shop-bot/drill", params=ASKED | fields)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "<b>" not in answer.text


def test_the_drill_in_progress_is_ended_by_an_order_of_the_person(world):
    client = world.client("oscar")
    assert post(world, "oscar", "/models/shop-bot/drill/end").status_code == 404
    world.fill([*world.events, *order(world.story)])
    assert "End the drill" in client.get("/models/shop-bot/drill").text
    assert "End the drill" not in world.client("vera").get("/models/shop-bot/drill").text
    (running,) = re.findall(r'name="drill_id" value="([^"]+)"', client.get("/models/shop-bot/drill").text)
    assert post(world, "vera", "/models/shop-bot/drill/end", drill_id=running).status_code == 403
    assert post(world, "oscar", "/models/shop-bot/drill/end", csrf="x").status_code == 403
    assert world.orders.given == []
    for stale, status in (({}, 409), ({"drill_id": "e-0"}, 409)):
        assert post(world, "oscar", "/models/shop-bot/drill/end", **stale).status_code == status
    assert world.orders.given == []
    assert post(world, "oscar", "/models/shop-bot/drill/end", drill_id=running).status_code == 303
    ((person, _, fact),) = world.orders.given
    assert (person, str(fact.target), fact.share_ratio, fact.fault) == ("oscar", TARGET, 0.0, DrillFault(delay_ms=1500))


@pytest.mark.parametrize(
    "events",
    [
        lambda story: order(story, answer=f.OrderRefused),
        lambda story: order(story, minutes=-1),
        lambda story: [*order(story), *order(story, 0.0)],
    ],
)
def test_a_drill_that_was_refused_or_is_over_is_not_in_progress(world, events):
    ordered = []
    for event in events(world.story):
        world.story.wait(5)
        ordered.append(event.model_copy(update={"time": world.story.moment}))
    world.fill([*world.events, *ordered])
    assert "End the drill" not in world.client("oscar").get("/models/shop-bot/drill").text


def test_a_member_of_a_team_has_no_drill_of_another_ones_model(world):
    assert world.client("sam").get("/models/bank-bot/drill").status_code == 404
    assert post(world, "sam", "/models/bank-bot/drill", target="bank-bot.v2.int8").status_code == 403
    assert post(world, "sam", "/models/bank-bot/drill/end", drill_id="e-0").status_code == 404
    assert world.orders.given == []


def test_every_fault_of_the_contract_can_be_chosen():
    values = {"error_ratio": "0.5", "answer": "cut", "logprob_shift": "-2"}
    assert set(FAULTS) == set(DrillFault.model_fields)
    for name in FAULTS:
        assert not DrillForm(fault=name, value=values.get(name, "7")).parsed_fault().does_nothing
    with pytest.raises(ValidationError):
        DrillForm(fault="answer", value="long").parsed_fault()


def test_a_plan_counts_the_traffic_of_the_target():
    share = f.DrillFault(garble=True)
    canary = factories.CanaryShare(served=factories.served(8), weight_ratio=0.2)
    route = factories.route(active=factories.served(7), canary=canary, previous=factories.served(6))
    plans = [plan_drill(route, factories.target(version), share, share=0.5, minutes=1) for version in (7, 8, 6)]
    assert [plan.traffic for plan in plans] == [0.4, 0.1, 0.0]
    assert [plan.previous for plan in plans] == [
        str(factories.target(6)),
        str(factories.target(7)),
        str(factories.target(7)),
    ]
    assert plans[2].refused["code"] == "not_in_traffic"
    assert (
        plan_drill(route, factories.target(7), DrillFault(), share=1.0, minutes=1).refused["code"] == "malformed_event"
    )
