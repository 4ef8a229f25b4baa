"""Limits of a replay: its work, one at a time, a process that is ended; and what a form says that is not valid."""

import asyncio
import threading
from datetime import timedelta

import pytest

from services.console.adapters.replays import ChildReplays
from services.console.domain.replay_screen import MOST_OUTCOMES, ReplayRefusedError, parse_triggers
from services.console.web.replay import LONGEST_POLICY
from shared.errors import Permanent, Transient
from testbed.story import Story, fleet
from tests.unit.console.replays import STRICT, ask
from tests.unit.console.world import NOW, InProcessReplays, World

PAGE = "/models/faq-de/replay"
BIG, CALM = "big-bot", "calm-bot"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made, story = World(tmp_path_factory.mktemp("console")), Story(NOW)
    before = Story(NOW - timedelta(hours=5))
    events = [*fleet(NOW), *story.release(BIG, 1, 91)]
    events += [*before.release(CALM, 1, 92), *before.alert(CALM, roll_back=False)]
    made.fill([*events, *story.windows(BIG, 1, ttft_ms=100.0, requests=MOST_OUTCOMES)])
    yield made
    made.close()


def post(world, client, path=PAGE, **fields):
    return client.post(path, data={"policy": STRICT, "hours": "24", "csrf": world.csrf(client)} | fields)


def test_a_replay_of_too_many_requests_times_triggers_is_refused_with_the_figures(world, admin):
    two = STRICT + "- {name: slower, metric: ttft_ms, threshold: 200, min_requests: 20}\n"
    answer = ask(world, admin, two, f"/api/v1/models/{BIG}/replay")
    message = answer.json()["error"]["message"]
    assert answer.status_code == 422
    for part in (f"{MOST_OUTCOMES:,} requests times 2 triggers are {2 * MOST_OUTCOMES:,}", "limit", "fewer hours"):
        assert part in message
    page = post(world, admin, f"/models/{BIG}/replay", policy=two)
    assert (page.status_code, f"the limit is {MOST_OUTCOMES:,}" in page.text) == (422, True)
    assert not world.replays.begun.is_set()


def test_one_replay_runs_at_a_time_and_another_one_is_told_when_to_come_back(world, admin):
    world.replays.begun.clear()
    world.replays.free.clear()
    first = []
    other = world.client("adam")
    running = threading.Thread(target=lambda: first.append(ask(world, other, STRICT)))
    running.start()
    try:
        assert world.replays.begun.wait(10)
        answer, page = ask(world, admin, STRICT), post(world, admin)
    finally:
        world.replays.free.set()
        running.join()
    for refused in (answer, page):
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        assert "one runs at a time" in refused.text
    assert first[0].status_code == 200
    assert ask(world, admin, STRICT).status_code == 200


def test_after_a_replay_that_failed_the_next_one_runs(world, admin):
    world.recorded.error = Transient("bus_unavailable", "The log cannot be read.")
    assert ask(world, admin, STRICT).status_code == 503
    world.recorded.error = None
    assert ask(world, admin, STRICT).status_code == 200


def compute(replays, world):
    about = [event for event in world.recorded.events if event.subject == "faq-de"]
    return asyncio.run(replays.compute("faq-de", parse_triggers(STRICT), about, NOW - timedelta(hours=48)))


def test_the_process_computes_what_this_process_would(world, tmp_path):
    (tmp_path / "0-replay").mkdir()  # of a console that was killed
    assert compute(ChildReplays(tmp_path), world) == compute(InProcessReplays(), world)
    assert [entry.name for entry in tmp_path.iterdir()] == ["replays.log"]


def test_the_process_is_ended_after_its_limit_of_time(world, tmp_path):
    with pytest.raises(ReplayRefusedError, match=r"longer than its limit of 0\.01 s"):
        compute(ChildReplays(tmp_path, limit_s=0.01), world)
    assert [entry.name for entry in tmp_path.iterdir()] == ["replays.log"]


@pytest.mark.parametrize("hours", ["500", "abc", "0", "-1", "", "1.5", "²"])
def test_hours_that_are_not_valid_are_refused_and_kept_as_they_were_typed(world, admin, hours):
    page = post(world, admin, hours=hours)
    assert page.status_code == 422
    assert f'name="hours" min="1" max="48" value="{hours}"' in page.text
    assert "hours: " in page.text
    assert "What would have happened" not in page.text


def test_a_policy_that_is_too_long_is_refused_instead_of_cut(world, admin):
    line_ends = STRICT.replace("\n", "\r\n")
    assert post(world, admin, policy=line_ends + "#".ljust(LONGEST_POLICY - len(STRICT), "x")).status_code == 200
    page = post(world, admin, policy=STRICT + "#".ljust(LONGEST_POLICY, "x"))
    assert (page.status_code, f"at most {LONGEST_POLICY} characters" in page.text) == (422, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [(Permanent("too_large", "There are too many."), 422), (Transient("bus_unavailable", "It is away."), 503)],
)
def test_an_error_has_the_same_status_on_the_page_and_in_the_api(world, admin, error, status):
    world.recorded.error = error
    try:
        page, answer = post(world, admin), ask(world, admin, STRICT)
    finally:
        world.recorded.error = None
    assert (page.status_code, answer.status_code) == (status, status)
    assert error.reason in page.text


def test_the_recorded_alerts_beside_it_are_those_of_the_replayed_time(world, admin):
    """Without any window, too: it does not list every alert since the first release."""
    shown = ask(world, admin, STRICT, "/api/v1/models/support-bot/replay", hours=1).json()
    assert shown["since"] == "2026-11-27T01:00:00.000Z"
    page = post(world, admin, f"/models/{CALM}/replay", hours="1").text
    assert "No windows were recorded" in page
    assert "/alerts/" not in page
    assert "/alerts/" in admin.get(f"/models/{CALM}").text
