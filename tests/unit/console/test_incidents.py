"""The top of each page: what went wrong, what serves, and who acknowledged it."""

import contextlib
import sqlite3
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


def test_an_operator_acknowledges_it_for_all_and_nobody_else_can(world):
    operator, viewer = world.client("oscar"), world.client("vera")
    assert "Acknowledge" not in top(viewer)
    rows = world.index.read("SELECT rollback_id FROM rollbacks")
    form = {"incident": rows[0]["rollback_id"], "back": "/fleet?state=alert"}
    assert viewer.post("/incidents", data=form | {"csrf": world.csrf(viewer)}).status_code == 403
    assert operator.post("/incidents", data=form).status_code == 403
    answer = operator.post("/incidents", data=form | {"csrf": world.csrf(operator)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/fleet?state=alert")
    assert "acknowledged by oscar at 2026-11-27 02:00 UTC" in top(viewer)
    world.clock.time += timedelta(hours=2)
    assert "shop-bot" not in top(world.client("vera"))


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", "", "javascript:1"])
def test_an_acknowledgement_leads_back_to_this_console_only(world, back):
    client = world.client("oscar")
    form = {"incident": "x", "back": back, "csrf": world.csrf(client)}
    assert client.post("/incidents", data=form).status_code == 403


def test_an_operator_without_a_credential_in_the_console_acknowledges(world):
    client, form = world.client("oscar"), {"incident": release_id(4), "back": "/fleet"}
    world.keys.credential("oscar").unlink()
    assert "Acknowledge" in top(client)
    assert client.post("/incidents", data=form | {"csrf": world.csrf(client)}).status_code == 303
    assert "acknowledged by oscar" in top(client)


def test_an_operator_of_a_team_acknowledges_nothing_of_others(world):
    member, form = world.client("sam"), {"incident": release_id(4), "model": "shop-bot", "back": "/fleet"}
    member.post("/incidents", data=form | {"csrf": world.csrf(member)})
    assert "acknowledged by" not in top(world.client("oscar"))


def test_an_index_that_is_being_built_shows_no_incidents(world):
    world.progress.last["EVENTS"] = 100_000
    page = world.client("oscar").get("/fleet").text
    assert ("<progress" in page, "was rolled back" in page.split("</aside>")[0]) == (True, False)


def test_an_index_that_cannot_be_read_is_a_page_that_says_so(world):
    client = world.client("oscar")
    with contextlib.closing(sqlite3.connect(world.folder / "index.db", isolation_level=None)) as file:
        file.execute("DROP TABLE rollbacks")
    answer = client.get("/fleet")
    assert (answer.status_code, 'class="notice bad"' in answer.text) == (500, True)


def test_a_member_of_a_team_sees_those_of_its_models(world):
    assert "faq-de" in top(world.client("vera"))
    shown = top(world.client("sam"))
    assert ("shop-bot.v2.int8" in shown, "faq-de" in shown) == (True, False)


def test_a_runbook_is_a_page(world):
    client = world.client("vera")
    page = client.get("/runbooks/latency")
    assert (page.status_code, "<h2>What to do</h2>" in page.text) == (200, True)
    assert client.get("/runbooks/none").status_code == 404
    linked = page.text.split('<a href="')[-1].split('"')[0]
    assert client.get(f"/runbooks/{linked}").status_code == 200
    assert '.md"' not in client.get("/runbooks/engine").text
    assert 'href="/runbooks/latency"' in client.get("/alerts/shop-bot.v2.int8%2Fttft-p95%2F2").text
