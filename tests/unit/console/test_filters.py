"""Filters: a model by a part of its name in lists and by its whole name on its own pages; times and dates."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console.domain.rows import instant
from services.console.web.filters import moment_of
from testbed.story import Story
from tests.unit.console.world import NOW, World, data

LISTS = ("fleet", "releases", "alerts", "changes", "events")
PAGES = {"changes": "timeline", "events": "history"}
"""The page of a list, where it has another name."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model `bot`, and `support-bot`, whose releases and alerts are newer."""
    made, story = World(tmp_path_factory.mktemp("console")), Story(NOW)
    events = []
    for number, model in enumerate(("bot", "support-bot")):
        events += [*story.release(model, 1, 10 * number + 1), *story.release(model, 2, 10 * number + 2, manual=True)]
        events += story.alert(model, roll_back=False)
    made.fill(events)
    yield made
    made.close()


def models(client, name, query):
    shown = data(client.get(f"/{PAGES.get(name, name)}?{query}&limit=500"), name)
    return {row["model"] for row in (shown["models"] if name == "fleet" else shown)["items"]}


def sheet(client, path):
    """Return a page without the incidents at its top, which are about all models."""
    return client.get(path).text.partition("<main")[2]


def test_the_page_of_a_model_shows_nothing_of_another_one_whose_name_contains_its_name(admin):
    page = sheet(admin, "/models/bot")
    assert "/models/bot/versions/2" in page
    assert "support-bot" not in page


@pytest.mark.parametrize("name", LISTS)
def test_a_list_takes_a_part_of_the_name(admin, name):
    assert models(admin, name, "model=port-b") == {"support-bot"}
    assert models(admin, name, "model=bot") == {"bot", "support-bot"}
    assert models(admin, name, "model=%25") == set()


@pytest.mark.parametrize("name", LISTS)
def test_a_list_takes_the_whole_name_too(admin, name):
    assert models(admin, name, "model=ot&exact=true") == set()
    assert models(admin, name, "model=bot&exact=true") == {"bot"}


def test_the_links_of_a_model_lead_to_what_is_about_it(admin):
    page = admin.get("/models/bot").text
    links = re.findall(r'href="(/(?:releases|alerts|timeline)\?[^"]*)"', page)
    assert len(links) == 4
    for link in links:
        assert "support-bot" not in sheet(admin, html.unescape(link)), link


@pytest.mark.parametrize("page", ["/timeline", "/history"])
def test_a_page_takes_a_part_of_the_name_too(admin, page):
    assert ">support-bot<" in admin.get(page, params={"model": "port-b"}).text
    assert ">support-bot<" not in admin.get(page, params={"model": "port-c"}).text


def test_a_date_as_until_includes_its_day(admin):
    def count(**query):
        return data(admin.get("/timeline", params=query), "changes")["total"]

    every = count()
    assert every > 0
    assert count(since="2026-11-27", until="2026-11-27") == every
    assert count(until="2026-11-26") == 0
    assert count(until="2026-11-27T00:00:00Z") == 0
    assert count(since="2026-11-28") == 0


def test_a_time_in_another_zone_is_that_time(admin):
    """Compared as text, 09:30 in Tokyo would be after what happened at 02:00 UTC; it is 00:30 UTC."""
    for name in LISTS[1:]:
        page = f"/{PAGES.get(name, name)}"
        since = data(admin.get(page, params={"since": "2026-11-27T09:30:00+09:00"}), name)["total"]
        assert since == data(admin.get(page), name)["total"] > 0, name
    assert data(admin.get("/timeline", params={"until": "2026-11-27T09:30:00+09:00"}), "changes")["total"] == 0


@pytest.mark.parametrize("name", ["timeline", "history", "releases", "alerts"])
@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "27.11.2026", "9999-12-31T23:00:00-05:00", "0", "'"])
def test_what_is_no_time_is_refused_with_an_example(admin, name, text):
    for parameter in ("since", "until"):
        answer = admin.get(f"/{name}", params={parameter: text})
        assert answer.status_code == 422
        assert "2026-11-27" in answer.text


def test_the_form_keeps_the_date_that_was_typed(admin):
    assert 'name="until" value="2026-11-27"' in admin.get("/timeline?until=2026-11-27").text


@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.timezones()))
def test_times_compare_as_text_like_the_times_of_the_index(first, second):
    try:
        texts = [moment_of(each.isoformat()) for each in (first, second)]
    except ValueError:  # before the year 1 or after the year 9999 in UTC
        return
    assert (texts[0] < texts[1]) <= (first < second)
    assert len(texts[0]) == len(instant(NOW))


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_refused(text):
    for ends in (False, True):
        try:
            assert moment_of(text, ends=ends).endswith("Z")
        except ValueError as error:
            assert "is no time" in str(error)  # noqa: PT017 - hypothesis also makes texts that are times
