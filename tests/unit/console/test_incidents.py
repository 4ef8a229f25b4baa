"""The top of each page: what went wrong, and what serves."""

from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.facts.watch import RollbackTimeline
from services.console.hub import topics_of
from testbed import factories
from testbed.progress import with_progress
from testbed.story import Story, release_id
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World


@pytest.fixture
def world(tmp_path):
    made, story = World(tmp_path), Story(NOW - timedelta(hours=3))
    events = [*story.release("shop-bot", 1, 1), *story.release("shop-bot", 2, 2), *story.release("faq-de", 1, 3)]
    story.moment = NOW - timedelta(minutes=20)
    events += story.release("faq-de", 2, 4, until="rejected")
    story.moment = NOW - timedelta(minutes=2)
    events += story.alert("shop-bot")
    made.fill(events)
    yield made
    made.close()


def top(client, path="/index"):
    """Return the incidents as a page shows them."""
    return page_text(client.get(path).text.split('id="incidents"')[1].split("</aside>")[0].partition(">")[2])


def test_it_says_what_happened_what_serves_and_why_on_each_page(world, snapshot):
    shown = top(world.client("oscar"))
    assert shown == snapshot
    assert shown == top(world.client("oscar"), "/alerts")


def test_an_open_alert_leads_to_the_rollback_and_its_rollback_replaces_it(world, snapshot):
    story = Story(NOW)
    events = [*story.release("bank-bot", 1, 5), *story.release("bank-bot", 2, 6)]
    raised, *rolled_back = story.alert("bank-bot")
    world.fill([*events, raised])
    world.clock.time += story.moment - world.clock.time
    assert 'href="/models/bank-bot/rollback?target=bank-bot.v2.int8"' in world.client("oscar").get("/fleet").text
    world.fill([*events, raised, rolled_back[0]])
    assert top(world.client("oscar")) == snapshot


def test_a_failed_rollback_is_said_with_its_reason(world, snapshot):
    story = Story(NOW)
    events = [*story.release("bank-bot", 1, 5), *story.release("bank-bot", 2, 6)]
    raised, started, *_ = story.alert("bank-bot")
    about = {
        name: getattr(started.data, name) for name in ("rollback_id", "cause_id", "failed", "to", "mode", "timeline")
    }
    failed = factories.fact(f.RollbackFailed, **about, code="previous_not_ready", reason="The standby does not answer.")
    world.fill([*events, raised, started, story.event(failed, "bank-bot", raised.correlationid)])
    world.clock.time += story.moment - world.clock.time
    assert top(world.client("oscar")) == snapshot


def test_a_later_version_is_not_verified_by_the_rollback_before_it(world):
    story = Story(NOW)
    events = [*story.release("bank-bot", 1, 5), *story.release("bank-bot", 2, 6), *story.alert("bank-bot")]
    world.fill(events)
    world.clock.time += story.moment - world.clock.time
    assert "bank-bot.v1.int8 serves, verified." in top(world.client("oscar"))
    world.fill([*events, *story.release("bank-bot", 3, 7)])
    assert "bank-bot.v3.int8 serves." in top(world.client("oscar"))


def test_what_answers_nothing_and_the_share_of_a_canary_are_said(world):
    story = Story(NOW)
    events = [*story.release("bank-bot", 1, 5), *story.release("bank-bot", 2, 6, until="canary")]
    (raised,) = story.alert("bank-bot", roll_back=False)
    silent = raised.data.model_copy(update={"answers_nothing": True})
    world.fill([*events, raised.model_copy(update={"data": silent})])
    shown = top(world.client("oscar"))
    assert "bank-bot.v1.int8 serves; it answers nothing. bank-bot.v2.int8 takes 10%." in shown


def test_a_canary_that_was_rolled_back_is_one_incident(world):
    story, canary = Story(NOW), factories.target(2, "int8", "bank-bot")
    events = [*story.release("bank-bot", 1, 5), *story.release("bank-bot", 2, 6, until="canary")]
    times = RollbackTimeline(detected_at=story.moment, decided_at=story.moment, switched_at=story.moment)
    left = factories.fact(
        f.RollbackCompleted, rollback_id="rb-canary", cause_id="e-alert", mode="automatic", verdict="pass",
        failed=canary, to=factories.target(1, "int8", "bank-bot"), timeline=times,
    )  # fmt: skip
    ended = list(story._end(release_id(6), canary, "aborted", "It is slow.", None))
    world.clock.time += story.moment - world.clock.time
    world.fill([*events, *ended])
    assert "bank-bot.v2 was aborted" in top(world.client("oscar"))
    rolled_back = story.event(left, "bank-bot", "e-alert")
    world.fill([*events, *ended, rolled_back])
    shown = top(world.client("oscar"))
    assert ("bank-bot.v2.int8 was rolled back" in shown, "bank-bot.v2 was aborted" in shown) == (True, False)
    story.wait(60)
    again = [
        *story.release("bank-bot", 2, 7, until="canary"),
        *story._end(release_id(7), canary, "aborted", "It is slow again.", None),
    ]
    world.fill([*events, *ended, rolled_back, *again])
    world.clock.time += story.moment - world.clock.time
    shown = top(world.client("oscar"))
    assert ("bank-bot.v2.int8 was rolled back" in shown, "bank-bot.v2 was aborted" in shown) == (True, True)


def test_only_the_end_of_a_release_changes_the_top_of_a_page():
    events = with_progress(Story(NOW).release("m", 1, 1, until="rejected"))
    changing = [event for event in events if "incidents" in topics_of(event)]
    assert [event.data.progress.outcome for event in changing] == ["rejected"]
