"""An alert keeps the figures that it was raised with, shows the resolution beside them, and names its units."""

import re
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest

from contracts import facts as f
from contracts.facts.watch import Window
from services.console.domain.alert_data import Figures
from services.console.queries.reading import points
from services.console.web.plots import figure_plots
from services.console.web.rendering import NONE, alert_figure
from testbed import factories
from testbed.story import Story
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World, data

RAISED, RESOLVED = "31 % of answers began after 800 ms", "1 % of answers began after 800 ms"


def stored(tmp_path, events):
    made = World(tmp_path)
    made.fill(events)
    return made


@pytest.fixture
def events():
    story = Story(NOW)
    return [*story.release("m", 1, 1), *story.release("m", 2, 2), *story.alert("m")]


def test_a_resolved_alert_keeps_what_it_was_raised_with(tmp_path, events, snapshot):
    made = stored(tmp_path, events)
    admin = made.client("adam")
    (shown,) = data(admin.get("/alerts?state=resolved"), "alerts")["items"]
    assert (shown["state"], shown["value"], shown["limit"], shown["requests"]) == ("resolved", 0.3125, 0.05, 96)
    assert shown["message"].startswith(RAISED)
    assert shown["resolution"].startswith(RESOLVED)
    pages = (admin.get("/alerts?state=").text, admin.get(f"/alerts/{shown['alert_id']}").text)
    assert "\n\n".join(map(page_text, pages)) == snapshot
    made.close()


def test_an_open_alert_shows_its_last_figures_and_no_resolution(tmp_path, events):
    raised = next(event for event in events if isinstance(event.data, f.AlertRaised))
    changed = f.AlertUpdated(**(dict(raised.data) | {"value": 0.5, "message": "50 %"}))
    updated = Story(NOW).event(changed, "m", raised.correlationid)
    made = stored(tmp_path, [*events[: events.index(raised) + 1], updated])
    (shown,) = data(made.client("adam").get("/alerts"), "alerts")["items"]
    assert (shown["state"], shown["value"], shown["message"], shown["resolution"]) == ("open", 0.5, "50 %", "")
    made.close()


def test_an_alert_whose_beginning_the_log_no_longer_has_shows_its_resolution(tmp_path, events):
    made = stored(tmp_path, [event for event in events if not isinstance(event.data, f.AlertRaised)])
    (shown,) = data(made.client("adam").get("/alerts?state=resolved"), "alerts")["items"]
    assert (shown["message"].startswith(RESOLVED), shown["resolution"]) == (True, "")
    made.close()


@pytest.mark.parametrize("silent", [True, False])
def test_an_alert_says_that_its_target_answers_nothing(tmp_path, events, silent, snapshot):
    events = [event for event in events if not isinstance(event.data, (f.AlertResolved, f.AlertUpdated))]
    raised = next(event for event in events if isinstance(event.data, f.AlertRaised))
    changed = raised.data.model_copy(update={"answers_nothing": silent})
    events[events.index(raised)] = raised.model_copy(update={"data": changed})
    made = stored(tmp_path, events)
    admin = made.client("adam")
    (shown,) = data(admin.get("/alerts"), "alerts")["items"]
    assert shown["answers_nothing"] == silent
    assert page_text(admin.get(f"/alerts/{shown['alert_id']}").text) == snapshot
    made.close()


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.3125, "latency", "31.2%"), (0.001, "errors", "0.1%"), (1.0, "quality", "100%"), (0.214, "drift", "0.214"),
        (None, "latency", NONE), (None, "standby", NONE),
    ],
)  # fmt: skip
def test_figures_of_alerts_have_the_unit_of_their_kind(value, kind, text):
    assert alert_figure(value, kind) == text


def summary(target, at, **figures):
    window = Window(from_=at - timedelta(seconds=60), to=at)
    return factories.fact(f.WindowSummarised, target=target, window=window, target_failures=0, **figures)


def test_the_plot_of_an_alert_holds_its_own_minutes_and_counts_by_its_own_trigger(tmp_path):
    """A window has many more good requests than the seconds that the alert speaks of, and newer ones follow for days."""
    story = Story(NOW)
    made = World(tmp_path)
    alert = [*story.release("m", 1, 1), *story.release("m", 2, 2), *story.alert("m")]
    raised = next(event for event in alert if isinstance(event.data, f.AlertRaised))
    target, trigger = raised.data.target, raised.data.trigger
    bad = {-1: 0, 0: 6} | dict.fromkeys(range(15, 120), 0)
    windows = [
        story.event(
            summary(target, raised.time + timedelta(minutes=minute, seconds=30), requests=179, observed={trigger: (179, count)}),
            "m", str(target),
        )
        for minute, count in bad.items()
    ]  # fmt: skip
    made.fill([*alert, *windows])
    client = made.client("adam")
    figures = data(client.get(f"/alerts/{raised.data.alert_id}"), "alert")["figures"]
    assert [share for share in figures["bad_ratio"] if share is not None] == [0, 6 / 179]
    assert figures["requests"]["values"][figures["bad_ratio"].index(6 / 179)] == 179
    made.close()


def test_the_plots_of_an_alert_have_its_limit_and_what_happened_at_the_time_of_the_day(tmp_path):
    story, made = Story(NOW), World(tmp_path)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2)]
    raised, *after = story.alert("m")
    target, trigger = raised.data.target, raised.data.trigger
    windows = [
        story.event(
            summary(target, raised.time + timedelta(seconds=30 * part), requests=100, observed={trigger: (100, count)}),
            "m", str(target),
        )
        for part, count in enumerate((1, 2, 31, 0), start=-2)
    ]  # fmt: skip
    made.fill([*events, raised, *after, *windows])
    page = made.client("adam").get(f"/alerts/{raised.data.alert_id}").text
    shown = page[page.index("Bad requests of") : page.index("TTFT p95")]
    at = f"{raised.time:%H:%M:%S}"
    keys = re.findall(r'class="key ([^"]*)">([^<]*)<', shown)
    assert keys[:2] == [("limit", "limit 5%"), ("candidate", "bad")]
    assert [css for css, _ in keys[2:5]] == ["moment rollback", "moment alert", "moment promotion"]
    assert ("moment alert", f"alert ttft-p95 {at}") in keys
    assert 'class="series serie-0 color-0 limit"' in shown
    assert "series serie-2 color-2 moment rollback" in shown
    made.close()


def test_labels_of_small_shares_of_bad_requests_differ():
    ends = tuple(f"2026-11-27T02:0{minute}:00.000Z" for minute in range(3))
    known = Figures(
        target="m.v1.int8", ends=ends, requests=points((100, 100, 100)), bad_ratio=(0.0, 0.001, 0.002),
        ttft_p95_ms={}, moments=(),
    )  # fmt: skip
    drawn = ET.fromstring(figure_plots(known, 0.001)["bad"].svg)
    (axis,) = [part for part in drawn.iter() if (part.get("class") or "").startswith("axis y")]
    labels = [part.text for part in axis.iter() if part.tag.endswith("text")]
    assert len(set(labels)) == len(labels) > 2
