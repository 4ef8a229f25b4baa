"""The history and the audit: what each role sees of them, as text."""

import asyncio
import contextlib

import pytest

from contracts import facts as f
from testbed import factories
from testbed.story import Story, drilled, fleet
from tests.unit.console.world import NOW, World, data

EVIL = "<script>alert(1)</script>"
PAGES = ("/history", "/history?audited=true")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made, story = World(tmp_path_factory.mktemp("console")), Story(NOW)
    events = [
        *fleet(NOW),
        *story.release("shop-bot", 1, 91),
        *story.release("shop-bot", 2, 92),
        *drilled(story, "shop-bot"),
    ]
    order = factories.fact(f.DrillOrdered, reason=EVIL, target=factories.target(2, "int8", "shop-bot"))
    events.append(story.event(order, "shop-bot", "d-2", by="oscar"))
    events.append(story.event(factories.fact(f.AuditRecorded, about=EVIL), "all-models", "a-1", by="adam"))
    made.fill(events)
    yield made
    made.close()


def test_the_audit_shows_orders_and_changes_with_their_person_and_no_progress(admin):
    audited = data(admin.get("/history?audited=true&limit=500"), "events")
    everything = data(admin.get("/history?limit=500"), "events")
    assert 0 < audited["total"] < everything["total"]


@pytest.mark.parametrize("path", ["/history", "/history?audited=true"])
def test_an_event_names_its_model_and_an_environment_that_is_not_production(tmp_path, path):
    """A rehearsal rolls back in staging: without the two it would look like production."""
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("shop-bot", 1, 1), *story.release("faq-de", 1, 2), *story.release("faq-de", 2, 3)]
    (alert, *followed) = story.alert("faq-de")
    in_staging = [each.model_copy(update={"environment": "staging"}) for each in (alert, *followed)]
    made.fill([*events, *in_staging])
    page = made.client("adam").get(path, params={"text": "faq-de.v2.int8 to faq-de.v1.int8, automatic"}).text
    rows = page[page.index("<tbody>") : page.index("</tbody>")].split("<tr>")[1:]
    assert rows
    for row in rows:
        assert ">staging</span>" in row
        assert ">faq-de</td>" in row
    production = made.client("adam").get(path, params={"model": "shop-bot"}).text
    assert ">shop-bot</td>" in production
    assert ">staging</span>" not in production
    made.close()


@pytest.mark.parametrize("path", PAGES)
def test_hostile_texts_are_text(admin, path):
    page = admin.get(path)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_a_member_of_a_team_sees_what_is_about_its_models(world, admin):
    member = world.client("sam")
    for path in PAGES:
        answer = member.get(path)
        assert answer.status_code == 200, path
        for other in ("faq-de", "mail-sorter", "search-ranker", "all-models"):
            assert other not in answer.text, (path, other)
        assert "shop-bot" in answer.text, path


def test_nobody_sees_anything_without_a_session(world):
    for path in PAGES:
        assert world.client().get(path).status_code == 303


@pytest.mark.parametrize("path", ["/models/faq-de/rollback", "/nothing"])
def test_no_page_is_rendered_in_the_event_loop_which_all_requests_share(tmp_path, path):
    made, in_loop = World(tmp_path), []
    real = made.protection.silent

    def silent():
        with contextlib.suppress(RuntimeError):
            in_loop.append(asyncio.get_running_loop())
        return real()

    made.fill()
    client = made.client("oscar")
    made.protection.silent = silent
    assert client.get(path).status_code in (200, 404, 503)
    assert in_loop == []
    made.close()
