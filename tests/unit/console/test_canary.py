"""The canary of a release: candidate over active, evidence against its line, and plots that need no script or style."""

import re
from xml.etree import ElementTree as ET

import pytest

from contracts import facts as f
from services.console.domain.canary_screen import Canary, strongest_tests
from services.console.domain.release_data import VariantRow
from services.console.web.plots import latency_plot, pareto_plot
from testbed import factories
from testbed.story import WINDOW_S, Story, release_id
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World, data, log_of, write

RUNNING, DONE, FIRST = "r-0000000000000026-1", "r-0000000000000005-1", "r-0000000000000001-1"


def canary_of(client, release):
    return data(client.get(f"/releases/{release}/canary"), "canary")


def test_a_running_canary_says_what_is_still_needed_and_how_far_the_evidence_is(admin):
    shown = canary_of(admin, RUNNING)
    assert (shown["candidate"]["target"], shown["active"]["target"]) == ("faq-de.v2.int8", "faq-de.v1.int8")
    assert [(share["weight"], share["state"]) for share in shown["shares"]] == [(0.1, "running"), (0.5, "waiting")]
    assert (shown["requests"], shown["requests_needed"]) == (216, 86)
    assert len(shown["points"]) == 12
    assert [point["requests"] for point in shown["points"]] == sorted(point["requests"] for point in shown["points"])
    by_name = {row["trigger"]: row for row in shown["evidence"]}
    assert by_name["slow-first-token"]["e_value"] == shown["points"][-1]["e_values"]["slow-first-token"]
    assert by_name["slow-first-token"]["line"] == pytest.approx(1000)
    assert by_name["errors"]["baseline_e_value"] == shown["points"][-1]["e_values"]["errors:baseline"]


def test_the_card_the_reason_and_the_triggers_show_the_counts_of_one_assessment(admin):
    shown = canary_of(admin, RUNNING)
    by_name = {row["trigger"]: row for row in shown["evidence"]}
    for row in by_name.values():
        assert row["candidate"]["requests"] == shown["requests"] == 216
    assert "slow-first-token: 12 of 216 bad" in shown["reason"]
    assert by_name["slow-first-token"]["candidate"]["bad"] == 12
    assert by_name["slow-first-token"]["active_beside"] == {"bad": 2, "requests": 180}
    assert (by_name["slow-first-token"]["pairs"], by_name["errors"]["pairs"]["neither"]) == (None, 24)


def test_assessments_of_an_earlier_version_have_no_counts(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    for event in events:
        if isinstance(event.data, f.CanaryAssessed):
            event.data.counts.clear()
    made.fill(events)
    admin = made.client("adam")
    assert {row["candidate"] is None for row in canary_of(admin, release_id(2))["evidence"]} == {True}
    assert admin.get(f"/releases/{release_id(2)}/canary").status_code == 200
    made.close()


def test_only_windows_while_the_canary_takes_traffic_count(admin):
    shown = canary_of(admin, RUNNING)
    assert (shown["candidate"]["windows"], shown["active"]["windows"]) == (6, 6)
    assert shown["candidate"]["failed_ratio"] == 0
    assert shown["candidate"]["ttft_p95_ms"] > 0
    assert all(entry["candidate"] and entry["active"] for entry in shown["ttft"])
    done = canary_of(admin, DONE)
    assert done["candidate"]["windows"] == 2 * 6  # both steps, and not what followed as the active target


def test_the_window_in_which_a_canary_was_aborted_counts(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    active, candidate = factories.served(1, "int8", "m"), factories.target(2, "int8", "m")
    story.wait(5)
    changes = {"epoch": 9, "active": active, "previous": None, "canary": None, "quarantined": (candidate,)}
    events.append(story._moved("m", release_id(2), "abort", history=(), cause_id="x", **changes))
    story.wait(WINDOW_S / 2)
    events.append(story.event(story._window(candidate, story.moment, 100.0, 7), "m", str(candidate)))
    made.fill(events)
    shown = canary_of(made.client("adam"), release_id(2))
    assert (shown["candidate"]["windows"], shown["windows"]) == (7, 13)
    assert [moment["what"] for moment in shown["moments"]] == ["abort", "canary 10%"]
    made.close()


def test_many_alerts_do_not_hide_when_a_canary_began(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    for number in range(20):
        story.wait(1)
        events += story.alert("m", roll_back=False, trigger=f"t{number}")
    made.fill(events)
    kinds = [moment["kind"] for moment in canary_of(made.client("adam"), release_id(2))["moments"]]
    assert (kinds.count("canary"), kinds.count("alert")) == (1, 12)
    made.close()


def test_a_plot_of_latencies_without_figures_is_not_drawn(admin):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    empty = tuple(entry.model_copy(update={"candidate": None, "active": None}) for entry in shown.ttft)
    assert latency_plot(shown) is not None
    assert latency_plot(shown.model_copy(update={"ttft": (*empty, shown.ttft[0])})) is None


def test_a_canary_that_pairs_failed_shows_what_failed_it(tmp_path, snapshot):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2, until="canary")]
    for event in events:
        if isinstance(event.data, f.CanaryAssessed):
            event.data.e_values["errors:baseline"] = 5000.0
            counted = event.data.counts["errors"]
            event.data.counts["errors"] = counted.model_copy(update={"mirrored": f.PairCounts(only_target=20, both=1)})
    made.fill(events)
    admin = made.client("adam")
    shown = Canary.model_validate(canary_of(admin, release_id(2)))
    assert (shown.evidence[0].trigger, strongest_tests(shown)[0].label) == ("errors", "errors beside active")
    pages = [admin.get(path).text for path in (f"/releases/{release_id(2)}/canary", f"/releases/{release_id(2)}")]
    assert "\n\n".join(map(page_text, pages)) == snapshot
    made.close()


def test_members_of_a_team_see_canaries_of_its_models_only(world):
    member = world.client("sam")
    for path in (f"/releases/{RUNNING}", f"/releases/{RUNNING}/canary"):
        assert member.get(path).status_code == 404


def test_plots_have_no_script_and_no_style_in_them(admin):
    pages = [admin.get(path).text for path in (f"/releases/{RUNNING}/canary", "/releases/r-0000000000000010-1")]
    plots = [plot for page in pages for plot in re.findall(r"<svg[^>]* class=\"chart.*?</svg>", page, re.DOTALL)]
    assert len(plots) == 3
    for plot in plots:
        for part in ET.fromstring(plot).iter():
            assert part.tag.rpartition("}")[2] not in ("style", "script", "foreignObject", "a", "image")
            assert not [name for name in part.attrib if name == "style" or name.startswith("on") or "href" in name]


def variant(name, size, ratio, *, chosen):
    measured = {"size_bytes": size, "perplexity_ratio": ratio, "chosen": chosen, "on_pareto_front": chosen}
    return VariantRow.model_construct(variant=name, state="pass", **measured)  # names that no contract has


def test_the_plot_of_variants_escapes_what_it_is_told():
    plot = pareto_plot([variant("<script>x</script>", 10, 1.0, chosen=True), variant("b", 20, 1.1, chosen=False)])
    assert "<script" not in plot
    assert "&lt;script&gt;" in plot
    assert pareto_plot([variant("a", 10, 1.0, chosen=True)]) is None


def test_a_canary_of_staging_or_of_no_release_is_not_indexed(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    fact = factories.fact(f.CanaryAssessed)
    for correlation, environment in (("r-0000000000000001-1", "staging"), ("other", "production")):
        event = story.event(fact, "m", correlation).model_copy(update={"environment": environment})
        write(made.index, log_of([event]))
    assert made.index.read("SELECT * FROM canary_points") == []
    made.close()
