"""Reports that another program wrote: shown within an alert, and never able to act as the person who reads them."""

import pytest

from services.console.web.headers import REPORT, REPORT_POLICY
from testbed.story import REPORT as STORED
from tests.unit.console.world import World

ALERT = "faq-de.v1.int8/drift/2"
HOSTILE = b"<script>fetch('/fleet').then(r => r.text()).then(alert)</script>"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("console"))
    made.fill()
    made.artifacts.reports[STORED.uri] = HOSTILE
    yield made
    made.close()


def report(client, alert=ALERT, **headers):
    return client.get(REPORT, params={"alert": alert}, headers=headers)


def test_an_alert_shows_its_report_in_a_frame_of_its_own_origin(world):
    page = world.client("adam").get(f"/alerts/{ALERT}")
    assert 'sandbox="allow-scripts"' in page.text
    assert "allow-same-origin" not in page.text
    assert HOSTILE.decode() not in page.text
    assert "frame-src 'self'" in page.headers["content-security-policy"]


def test_the_report_has_no_origin_no_network_and_no_other_page_around_it(world):
    answer = report(world.client("adam"))
    assert (answer.status_code, answer.content) == (200, HOSTILE)
    policy = answer.headers["content-security-policy"]
    assert policy == REPORT_POLICY
    assert policy.startswith("sandbox allow-scripts; default-src 'none';")
    for forbidden in ("allow-same-origin", "allow-top-navigation", "allow-popups", "connect-src", "http"):
        assert forbidden not in policy
    assert "frame-ancestors 'self'" in policy
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_a_report_is_not_shown_alone_where_it_could_lead_elsewhere(world):
    answer = report(world.client("adam"), **{"sec-fetch-dest": "document"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/alerts/{ALERT}")
    assert report(world.client("adam"), **{"sec-fetch-dest": "iframe"}).status_code == 200


def test_only_who_sees_the_alert_sees_its_report(world):
    assert report(world.client("sam")).status_code == 404
    assert HOSTILE not in report(world.client()).content


@pytest.mark.parametrize(
    "alert", ["", "nothing", "../../versions/faq-de/1/manifest.json", "search-ranker.v2.int8/ttft-p95/4"]
)
def test_an_alert_without_a_report_has_none(world, alert):
    assert report(world.client("adam"), alert).status_code == 404


def test_what_is_missing_is_text_in_the_frame_and_not_a_page_without_its_styles(world):
    """The policy of reports permits no style of the console, and no form: a page of it would be bare links."""
    for client, status, text in (
        (world.client("adam"), 404, "report"),
        (world.client(), 401, "You are not signed in"),
    ):
        answer = report(client, "search-ranker.v2.int8/ttft-p95/4", **{"sec-fetch-dest": "iframe"})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
        assert text in answer.text
        assert "<" not in answer.text


def test_other_pages_stay_out_of_every_frame(world):
    headers = world.client("adam").get("/fleet").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"]
