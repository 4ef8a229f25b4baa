"""Checkpoints that were refused at admission, and who ended a release: both are shown with names."""

from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.services import EVENTS, INBOX
from services.console.domain.logged import read_logged
from services.console.follower import rows_of
from testbed import factories
from testbed.story import Story
from tests.unit.console.world import NOW, World, data, log_of, write

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made, story = World(tmp_path_factory.mktemp("console")), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    ready = story.event(factories.fact(f.CheckpointReady), "shop-bot", "run-7", by="shop-training")
    first = factories.fact(f.CheckpointRejected, code="policy_invalid", reason=f"{EVIL} gates: unknown metric.")
    events += [ready, story.event(first, "shop-bot", "run-7", cause=ready.id)]
    story.wait(5)
    second = factories.fact(f.CheckpointRejected, code="unknown_base", reason="The base is not imported.")
    events.append(story.event(second, "new-bot", "run-8", cause="gone"))
    own = factories.fact(f.CheckpointRejected, code="non_finite_weights", reason="NaN.")
    events.append(story.event(own, "m", "r-0000000000000002-1"))
    made.fill(events)
    yield made
    made.close()


def refused(world, name="adam", **query):
    return data(world.client(name).get("/checkpoints", params=query), "refused")


def test_a_checkpoint_without_a_release_is_listed_with_code_and_sentence(world):
    shown = refused(world)
    assert [(row["model"], row["run_id"], row["by"], row["code"]) for row in shown["items"]] == [
        ("new-bot", "run-8", "unknown", "unknown_base"),
        ("shop-bot", "run-7", "shop-training", "policy_invalid"),
    ]
    assert shown["items"][0]["reason"] == "The base is not imported."


@pytest.mark.parametrize(
    ("query", "models"),
    [
        ({"model": "shop"}, ["shop-bot"]),
        ({"model": "shop", "exact": True}, []),
        ({"code": "unknown_base"}, ["new-bot"]),
        ({"since": "2030-01-01"}, []),
        ({"limit": 1}, ["new-bot"]),
        ({"limit": 1, "after": 1}, ["shop-bot"]),
    ],
)
def test_the_list_is_filtered(world, query, models):
    assert [row["model"] for row in refused(world, **query)["items"]] == models


def test_an_announcement_that_was_not_read_further_is_found_by_its_position(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    ready = story.event(factories.fact(f.CheckpointReady), "shop-bot", "run-7", by="shop-training")
    rejected = factories.fact(f.CheckpointRejected, code="subject_mismatch", reason="Another model.")
    made.fill([ready, *(story.event(rejected, "shop-bot", f"SLIPWAY_INBOX:{at}") for at in (1, 2))])
    assert [row["by"] for row in refused(made)["items"]] == ["shop-training", "unknown"]
    made.close()


MALFORMED = (b"{", b'{"id": "x-1", "data": {}}', b"null", b"")


@pytest.mark.parametrize("body", MALFORMED)
def test_what_cannot_be_read_is_shown_with_the_sender_in_its_subject(tmp_path, body):
    made, story = World(tmp_path), Story(NOW)
    rejected = factories.fact(f.CheckpointRejected, code="malformed_event", reason="No JSON.")
    message = read_logged(INBOX, 3, "slipway.checkpoint.ready.v1.shop-bot.shop-training", body)
    write(made.index, [message, *log_of([story.event(rejected, "shop-bot", "SLIPWAY_INBOX:3")])])
    assert [row["by"] for row in refused(made)["items"]] == ["shop-training"]
    assert [row["by"] for row in refused(made, "sam")["items"]] == ["shop-training"]
    made.close()


@pytest.mark.parametrize("subject", ["x", "", "a.b"])
def test_no_subject_stops_the_log(subject):
    assert read_logged(INBOX, 1, subject, b"").sequence == 1


def test_unreadable_messages_of_services_are_not_indexed():
    message = read_logged(EVENTS, 3, "slipway.release.opened.v1.m.registry", b"{")
    assert list(rows_of(message, lambda _text, _percentile: None)) == []


def test_fleet_and_releases_show_them_as_text(world):
    admin = world.client("adam")
    assert data(admin.get("/fleet"), "fleet")["totals"]["refused_checkpoints"] == 2
    assert "refused checkpoints" in admin.get("/fleet").text
    for path in ("/releases", "/checkpoints", "/releases?model=shop"):
        page = admin.get(path).text
        assert "<code>policy_invalid</code>" in page
        assert EVIL not in page
    assert "policy_invalid" not in admin.get("/releases?model=new").text
    assert "policy_invalid" not in admin.get("/checkpoints?code=unknown_base").text


def test_members_of_a_team_see_those_of_its_models(world):
    assert [row["model"] for row in refused(world, "sam")["items"]] == ["shop-bot"]
    assert data(world.client("sam").get("/fleet"), "fleet")["totals"]["refused_checkpoints"] == 1


def test_the_fleet_counts_those_of_a_week(tmp_path):
    made, story = World(tmp_path), Story(NOW - timedelta(days=8))
    rejected = factories.fact(f.CheckpointRejected, code="policy_invalid", reason="Old.")
    old = story.event(rejected, "shop-bot", "run-1")
    story.moment = NOW - timedelta(days=6)
    made.fill([old, story.event(rejected, "shop-bot", "run-2")])
    admin = made.client("adam")
    assert data(admin.get("/fleet"), "fleet")["totals"]["refused_checkpoints"] == 1
    assert 'href="/checkpoints?since=2026-11-20' in admin.get("/fleet").text
    made.close()


@pytest.mark.parametrize(
    ("answer", "by", "because"),
    [(f.OrderAccepted, "oscar", "Too curt."), (f.OrderRefused, "registry", "cancelled: x")],
)
def test_the_timeline_names_the_person_who_cancelled(tmp_path, answer, by, because):
    made, story = World(tmp_path), Story(NOW)
    release = "r-0000000000000002-1"
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    order = story.event(
        factories.fact(f.ReleaseCancelled, release_id=release, reason="Too curt."), "m", release, by="oscar"
    )
    given = factories.fact(answer, order_id=order.id, order_type=order.type, release_id=release)
    (ended,) = story._end(release, factories.target(2, "int8", "m"), "cancelled", "x", "cancelled")
    events += [order, story.event(given, "m", release), ended]
    cause = {"active": factories.served(1, "int8", "m"), "previous": None, "canary": None, "history": ()}
    events.append(story._moved("m", release, "abort", epoch=9, quarantined=(), cause_id=ended.id, **cause))
    made.fill(events)
    row = data(made.client("adam").get("/timeline?model=m"), "changes")["items"][0]
    assert (row["by"], row["because"], row["link"]) == (by, because, f"/releases/{release}")
    made.close()


def test_the_timeline_names_the_person_who_promoted_a_canary(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    release = "r-0000000000000002-1"
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    order = story.event(factories.fact(f.CanaryAdvanced, release_id=release, reason="Good."), "m", release, by="anna")
    fact = factories.fact(f.TrafficRequested, release_id=release, target=factories.served(2, "int8", "m"))
    asked = story.event(fact, "m", release, cause=order.id)
    served = {"active": factories.served(2, "int8", "m"), "previous": factories.served(1, "int8", "m"), "canary": None}
    events += [order, asked, story._moved("m", release, "promote", epoch=9, cause_id=asked.id, **served)]
    made.fill(events)
    row = data(made.client("adam").get("/timeline?model=m"), "changes")["items"][0]
    assert (row["by"], row["because"], row["link"]) == ("anna", "Good.", f"/releases/{release}")
    made.close()
