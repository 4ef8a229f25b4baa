"""What the screens show: the index's data, escaped, live, and of a team's models only to its members."""

import asyncio
import json
from datetime import timedelta

import pytest
from fastapi.routing import iter_route_contexts

from clients.cli.views import render as terminal
from contracts import facts as f
from services.console.adapters.gateway import GatewayClient
from services.console.hub import MOST_TOPICS, Hub
from services.console.web.rendering import NONE, ago, duration, milliseconds, number, size
from testbed import factories
from testbed.screens import ELSEWHERE, Shown, screens
from testbed.story import Story
from tests.unit.console.world import NOW, FakeClock, World, data, log_of

EVIL = """"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}"""
PAGES = (
    "/fleet", "/releases", "/alerts", "/timeline", "/history", "/models/shop-bot", "/releases/r-0000000000000001-1",
    "/alerts/shop-bot.v2.int8/evil/4",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made, story = World(tmp_path_factory.mktemp("console")), Story(NOW)
    events = [*story.release("shop-bot", 1, 1), *story.release("shop-bot", 2, 2, manual=True, text=EVIL)]
    events += story.windows("shop-bot", 30, ttft_ms=200, requests=50)
    events += story.alert("shop-bot", roll_back=False, message=EVIL, trigger="evil")
    events += story.release("bank-bot", 1, 3, until="rejected", text=EVIL)
    order = factories.fact(f.RollbackOrdered, reason=EVIL, failed=factories.target(2, "int8", "shop-bot"))
    events.append(story.event(order, "shop-bot", "order-1", by="oscar"))
    made.fill(events)
    yield made
    made.close()


@pytest.mark.parametrize("path", PAGES)
def test_hostile_texts_are_shown_as_text(admin, path):
    page = admin.get(path)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "<img src=x" not in page.text


def test_the_hostile_text_is_there(admin):
    assert "&lt;script&gt;alert(1)" in admin.get("/alerts").text
    assert "{{7*7}}" in admin.get("/history").text


@pytest.mark.parametrize("query", ["model", "state", "type", "sender", "text", "severity"])
def test_a_hostile_filter_is_shown_as_text_and_finds_nothing(admin, query):
    for path in ("/fleet", "/releases", "/alerts", "/timeline", "/history"):
        page = admin.get(path, params={query: EVIL})
        assert page.status_code == 200
        assert "<script>alert" not in page.text


@pytest.mark.parametrize("query", ["since", "until"])
def test_a_hostile_time_is_refused_as_text(admin, query):
    for path in ("/releases", "/alerts", "/timeline", "/history"):
        page = admin.get(path, params={query: EVIL})
        assert (page.status_code, "is no time" in page.text) == (422, True)
        assert "<script>alert" not in page.text


@pytest.mark.parametrize(
    "path", ["/releases/<script>", "/alerts/<script>alert(1)</script>", "/models/a<script>", "/nowhere"]
)
def test_what_is_not_there_is_a_page_without_what_was_asked(admin, path):
    page = admin.get(path)
    assert page.status_code in (404, 422)
    assert "<script>alert" not in page.text


def test_a_member_of_a_team_sees_the_models_of_the_team_only(world, admin):
    member = world.client("sam")
    assert any("bank-bot" in admin.get(path).text for path in PAGES[:5])
    for path in PAGES[:5]:
        answer = member.get(path)
        assert answer.status_code == 200
        assert "bank-bot" not in answer.text, path
    assert data(member.get("/fleet"), "fleet")["totals"]["models"] == 1
    assert data(admin.get("/fleet"), "fleet")["totals"]["models"] == 2
    for path in ("/releases/r-0000000000000003-1", "/models/bank-bot"):
        assert (admin.get(path).status_code, member.get(path).status_code) == (200, 404)
    assert member.get("/models/bank-bot/rollback").status_code == 404


def test_a_page_shows_what_the_index_has(admin):
    (shop,) = [row for row in data(admin.get("/fleet"), "fleet")["models"]["items"] if row["model"] == "shop-bot"]
    assert (shop["active"], shop["previous"], shop["standby"]) == ("shop-bot.v2.int8", "shop-bot.v1.int8", "hot")
    assert (shop["open_alerts"], shop["worst"]) == (1, "critical")
    assert len(shop["traffic"]["values"]) == 30 + 2 * 6  # and six in each step of the canary
    release = data(admin.get("/releases/r-0000000000000002-1"), "release")
    assert release["outcome"] == "promoted"
    assert [step["state"] for step in release["steps"]] == ["done"] * len(release["steps"])
    assert {gate["verdict"] for _, gate in release["gates"]} == {"pass"}
    assert release["approval"]["given"] == ["anna"]


def test_the_timeline_names_who_approved_and_what_followed(admin):
    rows = data(admin.get("/timeline?model=shop-bot"), "changes")["items"]
    assert [(row["cause"], row["active"]) for row in rows][:1] == [("promote", "shop-bot.v2.int8")]
    assert rows[0]["by"] == "anna"
    assert rows[0]["until"] is None
    assert rows[0]["link"] == "/releases/r-0000000000000002-1"
    assert rows[1]["until"] == rows[0]["at"]


def test_the_timeline_names_who_ordered_a_rollback_and_the_alert_behind_one(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("shop-bot", 1, 1), *story.release("shop-bot", 2, 2), *story.release("bank-bot", 1, 3)]
    events += story.release("bank-bot", 2, 4)
    order = factories.fact(f.RollbackOrdered, reason="It is rude.", failed=factories.target(2, "int8", "shop-bot"))
    events.append(ordered := story.event(order, "shop-bot", "order-1", by="oscar"))
    events += story.rollback("shop-bot", ordered, mode="manual")
    events += story.alert("bank-bot")
    made.fill(events)
    client = made.client("adam")
    by_hand, by_alert = (
        data(client.get(f"/timeline?model={model}"), "changes")["items"][0] for model in ("shop-bot", "bank-bot")
    )
    assert (by_hand["cause"], by_hand["by"]) == ("rollback", "oscar")
    assert "It is rude." in by_hand["because"]
    assert (by_alert["cause"], by_alert["by"]) == ("rollback", "rollback-controller")
    assert by_alert["link"].startswith("/alerts/bank-bot.v2.int8/")
    made.close()


def test_lists_come_in_parts(admin):
    first = data(admin.get("/history?limit=10"), "events")
    second = data(admin.get(f"/history?limit=10&after={first['next']}"), "events")
    assert first["total"] == second["total"] > 20
    assert not {row["id"] for row in first["items"]} & {row["id"] for row in second["items"]}
    assert admin.get("/history?limit=501").status_code == 422
    assert admin.get("/history?after=-1").status_code == 422


def test_filters_by_state_and_time(admin):
    def ids(query):
        return [row["release_id"] for row in data(admin.get(f"/releases?{query}"), "releases")["items"]]

    assert ids("state=rejected") == ["r-0000000000000003-1"]
    assert len(ids("state=finished")) == 3
    assert ids("state=open") == []
    assert ids("since=2027-01-01") == []
    assert len(ids("until=2027-01-01")) == 3
    assert ids("model=%25") == []


def test_open_pages_learn_what_changed_and_of_their_models_only():
    async def listen():
        hub, story = Hub(10), Story(NOW)
        everything, team = hub.stream(), hub.stream(("shop-bot",))
        assert [await anext(everything), await anext(team)] == ["retry: 1000\n\n"] * 2
        await hub.publish(log_of([*story.release("bank-bot", 1, 1), *story.release("shop-bot", 1, 2)]))
        messages = [json.loads((await anext(each)).split("data: ")[1]) for each in (everything, team)]
        assert hub.listeners == 2
        hub.close()
        assert [part async for part in everything] == []
        return messages

    everything, team = asyncio.run(listen())
    assert {"model:bank-bot", "model:shop-bot", "release", "deployment"} <= set(everything)
    assert "model:shop-bot" in team
    assert not [topic for topic in team if "bank-bot" in topic or "0000000001-1" in topic]


def test_very_many_changes_are_one_that_says_all():
    async def listen():
        hub, story = Hub(1), Story(NOW)
        stream = hub.stream()
        await anext(stream)
        assert hub.is_full
        for position in range(MOST_TOPICS):
            await hub.publish(log_of(list(story.release(f"m{position}", 1, position, until="merging"))))
        topics = json.loads((await anext(stream)).split("data: ")[1])
        await stream.aclose()
        return topics

    assert asyncio.run(listen()) == ["all"]


def test_live_progress_is_that_of_the_release():
    hub = Hub(10)
    for release, done in (("r-1", 1.0), ("r-1", 2.0), ("r-2", 5.0)):
        progress = factories.fact(f.WorkProgressed, done=done)
        hub.progress(factories.event(progress, correlationid=release))
    assert [event.data.done for event in hub.live("r-1")] == [2.0]


def test_figures_are_written_with_their_units():
    assert [milliseconds(value) for value in (0, 0.84, 36, 2100, 210_000, None)] == [
        "0 s",
        "840 µs", "36 ms", "2.10 s", "3.5 min", NONE,
    ]  # fmt: skip
    assert (number(1240.0), number(0.31415), number(None), size(165e6)) == ("1,240", "0.314", NONE, "165 MB")
    assert (number(4.606e182), number(float("inf")), number(1e11)) == ("4.61e182", "∞", "100,000,000,000")
    assert (ago("2026-11-27T01:59:30.000Z", NOW), ago(None, NOW)) == ("30 s", NONE)


def test_seconds_are_written_as_in_the_terminal():
    for seconds in (0.0, 39.31, 59.6, 95.0, 3599.7, 7530.0):
        assert duration(seconds) == terminal.duration(seconds)
    assert duration(95.2) == "1 min 35 s"


def test_every_screen_is_looked_at_in_a_browser_and_has_a_picture(world):
    """A new page is added to `testbed/screens.py`: `tests/e2e/test_console.py` runs axe on it."""
    app = world.make(gateway=GatewayClient("http://127.0.0.1:9", None))
    pages = {page.path for page in iter_route_contexts(app.routes) if "GET" in (page.methods or ())}
    addresses = {path for path in pages if not path.startswith(("/stream", "/healthz", "/readyz", "/metrics"))}
    assert addresses == {*screens(Shown("", "", "", "")), *ELSEWHERE} - {"/login/oidc", "/login/callback"}


def test_what_changed_between_a_page_and_its_stream_is_sent_at_once():
    async def first_message(hub, **options):
        stream = hub.stream(keep_alive_s=0.05, **options)
        assert await anext(stream) == "retry: 1000\n\n"
        return await anext(stream)

    async def play():
        clock = FakeClock()
        hub, read_at = Hub(10, clock), clock.monotonic()
        assert await first_message(hub, since=read_at) == ": keep open\n\n"
        await hub.publish(log_of(Story(NOW).release("shop-bot", 1, 9, until="merging")))
        clock.time += timedelta(seconds=1)
        assert await first_message(hub, since=read_at) == 'event: change\ndata: ["all"]\n\n'
        assert await first_message(hub, since=clock.monotonic()) == ": keep open\n\n"
        assert await first_message(hub, since=read_at, models=["bank-bot"]) == ": keep open\n\n"
        assert await first_message(hub, since=clock.monotonic() + 60) == 'event: change\ndata: ["all"]\n\n'

    asyncio.run(play())
