"""A version that was rolled back does not look as if it served; a release that ended is no rollback of what serves."""

import pytest

from contracts import facts as f
from contracts.facts.watch import RollbackTimeline
from testbed import factories
from testbed.story import Story
from tests.unit.console.world import NOW, World, data


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Of shop-bot version 2 was rolled back by an alert; of bank-bot a person cancelled the canary of version 2."""
    made, story = World(tmp_path_factory.mktemp("console")), Story(NOW)
    events = [*story.release("shop-bot", 1, 1), *story.release("shop-bot", 2, 2), *story.alert("shop-bot")]
    story.wait(60)
    events += [*story.release("bank-bot", 1, 3), *story.release("bank-bot", 2, 4, until="canary")]
    ended = list(story._end("r-0000000000000004-1", factories.target(2, "int8", "bank-bot"), "cancelled", "No.", None))
    times = RollbackTimeline(detected_at=story.moment, decided_at=story.moment, switched_at=story.moment)
    aborted = factories.fact(
        f.RollbackCompleted, rollback_id="rb-cancelled", cause_id=ended[0].id, mode="automatic", verdict="pass",
        failed=factories.target(2, "int8", "bank-bot"), to=factories.target(1, "int8", "bank-bot"), timeline=times,
    )  # fmt: skip
    story.wait(5)
    made.fill([*events, *ended, story.event(aborted, "bank-bot", "r-0000000000000004-1")])
    yield made
    made.close()


def test_each_screen_of_a_version_that_was_rolled_back_says_so(admin):
    rows = {row["version"]: row for row in data(admin.get("/releases?model=shop-bot"), "releases")["items"]}
    shown = data(admin.get("/models/shop-bot/versions/2"), "shown")
    change = next(row for row in data(admin.get("/timeline?model=shop-bot"), "changes")["items"])
    assert rows[2]["outcome"] == shown["outcome"] == "promoted"
    assert rows[2]["rolled_back_at"] == shown["rolled_back_at"] == change["at"]
    assert rows[1]["rolled_back_at"] is None
    assert [held["target"] for held in shown["suspended"]] == ["shop-bot.v2.int8"]
    assert "suspended</span>" in admin.get("/models/shop-bot/versions/2").text
    for path in ("/releases?model=shop-bot", "/models/shop-bot"):
        page = admin.get(path).text
        assert page.count('<span class="badge bad">rolled back</span>') == page.count("when it ended: ") == 1, path
    assert "rolled back</span>" not in admin.get("/models/shop-bot/versions/1").text
    compared = data(admin.get("/models/shop-bot/compare?left=2&right=1"), "compared")["rows"]
    assert next(row["left"] for row in compared if row["name"] == "outcome") == "promoted, rolled back, suspended"


def test_a_version_that_was_returned_serves_again(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    made.fill([*story.release("m", 1, 1), *story.release("m", 2, 2), *story.alert("m"), *story.decide("m", "return")])
    client = made.client("adam")
    shown = data(client.get("/models/m/versions/2"), "shown")
    release = data(client.get(f"/releases/{shown['release_id']}"), "release")
    assert (shown["rolled_back_at"], shown["suspended"], release["rolled_back"]) == (None, [], "")
    assert "rolled back</span>" not in client.get("/models/m").text
    made.close()


def test_a_cancelled_canary_is_no_rollback_of_its_release_and_not_the_last_one_of_its_model(admin):
    release = data(admin.get("/releases/r-0000000000000004-1"), "release")
    assert (release["outcome"], release["rolled_back"]) == ("cancelled", "")
    rows = {row["model"]: row for row in data(admin.get("/fleet"), "fleet")["models"]["items"]}
    assert rows["bank-bot"]["last_rollback"] is None
    assert rows["shop-bot"]["last_rollback"]["failed"] == "shop-bot.v2.int8"
    listed = data(admin.get("/releases?model=bank-bot"), "releases")["items"]
    assert [row["rolled_back_at"] for row in listed] == [None, None]
    assert "rolled back</span>" not in admin.get("/models/bank-bot").text
    promoted = data(admin.get("/releases/r-0000000000000002-1"), "release")["rolled_back"]
    assert promoted.startswith("shop-bot.v2.int8 was rolled back to shop-bot.v1.int8 automatically at ")
