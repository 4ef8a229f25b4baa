"""A quarantined target says so, since when and why."""

from typing import Any

import pytest

from contracts import facts as f
from services.console.domain.rows import instant
from testbed import factories
from testbed.story import Story
from tests.unit.console.world import NOW, World, data

HELD = "shop-bot.v2.int8"
EVIL = "<script>alert(1)</script>"


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
    yield made
    made.close()


def test_a_version_says_since_when_and_why_it_is_quarantined(world):
    (shown,) = data(world.client("vera").get("/models/shop-bot/versions/2"), "shown")["quarantined"]
    assert (shown["target"], shown["since"]) == (HELD, instant(world.moved.data.at))
    assert (shown["by"], shown["because"]) == ("oscar", f"confirm {HELD}: {EVIL}")
    page = world.client("vera").get("/models/shop-bot/versions/2").text
    assert '<span class="badge bad">quarantined</span>' in page
    assert "rolled back</span>" not in page
    assert EVIL not in page


def test_the_person_who_rolled_back_is_named(world):
    (held,) = data(world.client("vera").get("/models/bank-bot"), "quarantines")
    assert (held["target"], held["by"], held["because"].split(": ")[-1]) == ("bank-bot.v2.int8", "oscar", "Too curt.")


def test_a_quarantine_that_a_restored_bucket_lost_counts_from_the_second_time(tmp_path):
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
