"""The canary of a release: candidate over active, evidence against its line, and plots that need no script or style."""

import re
from xml.etree import ElementTree as ET

import pytest

from contracts import facts as f
from services.console.domain.canary_screen import Canary, strongest_tests
from services.console.domain.release_data import VariantRow
from services.console.web.plots import _powers, evidence_plot, latency_plot, pareto_plot
from testbed import factories
from testbed.progress import with_progress
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


def test_a_canary_without_windows_says_so(tmp_path, snapshot):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("m", 1, 1), *story.release("m", 2, 2)]
    made.fill([event for event in events if not isinstance(event.data, f.WindowSummarised)])
    admin = made.client("adam")
    assert canary_of(admin, release_id(2))["windows"] == 0
    assert page_text(admin.get(f"/releases/{release_id(2)}/canary").text) == snapshot
    made.close()


def test_a_plot_of_latencies_without_figures_is_not_drawn(admin):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    empty = tuple(entry.model_copy(update={"candidate": None, "active": None}) for entry in shown.ttft)
    assert latency_plot(shown) is not None
    assert latency_plot(shown.model_copy(update={"ttft": (*empty, shown.ttft[0])})) is None


@pytest.mark.parametrize("figures", [(30.8, 32.1), (31.0, 31.0), (5.0, 9000.0), (0.02, 0.03), (28.0, 31.0)])
def test_labels_of_latencies_that_differ_by_little_differ(admin, figures):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    first, second, *_ = shown.ttft
    both = (
        first.model_copy(update={"active": figures[0], "candidate": None}),
        second.model_copy(update={"active": figures[1], "candidate": None}),
    )
    drawn = ET.fromstring(latency_plot(shown.model_copy(update={"ttft": both})).svg)
    (axis,) = [part for part in drawn.iter() if (part.get("class") or "").startswith("axis y")]
    labels = [part.text for part in axis.iter() if part.tag.endswith("text")]
    assert labels
    assert len(set(labels)) == len(labels)


def test_each_test_is_drawn_as_a_share_of_its_own_line(world, admin):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    latest = shown.points[-1].e_values
    tests = strongest_tests(shown)
    assert {test.key for test in tests} == set(latest) == {"slow-first-token", "errors", "errors:baseline"}
    heights = [latest[test.key] / test.line for test in tests]
    assert heights == sorted(heights, reverse=True)
    root = ET.fromstring(evidence_plot(shown, tests).svg)
    labels = [text.text for text in root.iter() if (text.text or "").replace(".", "").isdigit()]
    assert "1" in labels
    series = [part for part in root.findall(".//*[@class]") if "series" in part.get("class")]
    drawn = [line for part in series if "moment" not in part.get("class") for line in part.findall("{*}path")]
    assert len(drawn) == 1 + 3
    ends = [float(line.get("d").split()[-1]) for line in drawn]
    assert ends[1:] == sorted(ends[1:])  # the strongest is nearest to the line, which is above all
    assert ends[0] < ends[1]


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


def paths_of(plot):
    series = [part for part in ET.fromstring(plot.svg).findall(".//*[@class]") if "series" in part.get("class")]
    return [line for part in series if "moment" not in part.get("class") for line in part.findall("{*}path")]


def test_lines_of_equal_evidence_are_drawn_so_that_each_can_be_seen(admin):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    for point in shown.points:
        point.e_values["errors:baseline"] = point.e_values["errors"]
    drawn = paths_of(evidence_plot(shown, strongest_tests(shown)))
    equal = [line for line in drawn[1:] if line.get("d") == drawn[-1].get("d")]
    assert len(equal) == 2
    dashes = [float(line.get("stroke-dasharray", "30 0").split()[0]) for line in drawn[1:]]
    assert dashes == sorted(set(dashes), reverse=True)  # the later ones leave gaps in which the earlier ones show
    assert dashes[-1] > 0


def test_both_plots_of_a_canary_have_the_same_axis_of_time(admin):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    labels = []
    for plot in (evidence_plot(shown, strongest_tests(shown)), latency_plot(shown)):
        (axis,) = [part for part in ET.fromstring(plot.svg).iter() if (part.get("class") or "").startswith("axis x")]
        labels.append([text.text for text in axis.iter("{http://www.w3.org/2000/svg}text")])
    assert labels[0] == labels[1]
    assert all(re.fullmatch(r"\d\d:\d\d:\d0", label) for label in labels[0]), "times of the day, at full seconds"


def test_a_test_keeps_its_colour_whatever_its_evidence_is(admin):
    shown = Canary.model_validate(canary_of(admin, RUNNING))
    before = dict(map(reversed, evidence_plot(shown, strongest_tests(shown)).legend))
    for point in shown.points:
        point.e_values["errors:baseline"] *= 500
    after = dict(map(reversed, evidence_plot(shown, strongest_tests(shown)).legend))
    assert list(before) != list(after)
    assert before == after


@pytest.mark.parametrize("heights", [[], [-5.0, -0.1], [-3.0, 0.0], [-5.0, 179.3], [0.4, 2.0], [-2.5, 1e-9]])
def test_a_logarithmic_axis_has_few_labels_and_one_at_the_line(heights):
    labels = _powers(heights)
    assert 0 in labels
    assert 2 <= len(labels) <= 9
    assert all(labels[0] <= height <= labels[-1] for height in heights)


def test_each_step_that_passed_shows_it(admin):
    assert {share["state"] for share in canary_of(admin, DONE)["shares"]} == {"pass"}


def test_a_release_without_a_canary_has_an_empty_one(admin, snapshot):
    shown = canary_of(admin, FIRST)
    assert (shown["candidate"], shown["points"], shown["verdict"]) == (None, [], "waiting")
    assert page_text(admin.get(f"/releases/{FIRST}/canary").text) == snapshot


def test_applying_the_log_again_changes_nothing(world, admin):
    before = canary_of(admin, RUNNING)
    world.fill()
    assert canary_of(admin, RUNNING) == before


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


@pytest.mark.parametrize(
    ("sizes", "ratios", "unit"),
    [
        ((96_000, 60_000, 55_000), (1.0, 1.0002, 1.0004), "kB"),
        ((3 * 10**9, 16 * 10**8, 10**9), (1.0, 1.02, 1.3), "GB"),
        ((96_000_000, 96_000_000), (1.0, 1.0), "MB"),
        ((0, 0), (0.0, 0.0), "B"),
    ],
)
def test_labels_of_the_plot_of_variants_differ_and_name_their_unit(sizes, ratios, unit):
    rows = [
        variant(f"v{n}", size, ratio, chosen=n == 0) for n, (size, ratio) in enumerate(zip(sizes, ratios, strict=True))
    ]
    root = ET.fromstring(pareto_plot(rows))
    assert f"Size of the weights ({unit})" in {part.text for part in root.iter()}
    for axis in ("axis x", "axis y"):
        (drawn,) = [part for part in root.iter() if (part.get("class") or "").startswith(axis)]
        labels = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert len(labels) == len(set(labels)) > 1


def test_the_plot_of_variants_has_prices_across_if_each_has_one():
    rows = [variant("a", 10, 1.0, chosen=True), variant("b", 20, 1.1, chosen=False)]
    priced = [row.model_copy(update={"million_tokens_price": 2.5 + n}) for n, row in enumerate(rows)]
    assert "Price of a million tokens" in pareto_plot(priced)
    assert "Size of the weights (B)" in pareto_plot([priced[0], rows[1]])


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


@pytest.mark.parametrize(("front", "says"), [(("bf16",), False), (("bf16", "int8"), True)])
def test_a_front_of_one_variant_is_not_called_a_line(tmp_path, front, says):
    made, story = World(tmp_path), Story(NOW)
    events = list(with_progress(story.release("m", 1, 1)))
    for at, event in enumerate(events):
        if isinstance(event.data, f.ReleaseProgressed) and event.data.progress.comparison is not None:
            comparison = event.data.progress.comparison
            compared = [v.model_copy(update={"on_pareto_front": v.variant in front}) for v in comparison.variants]
            comparison = comparison.model_copy(update={"variants": tuple(compared)})
            progress = event.data.progress.model_copy(update={"comparison": comparison})
            changed = event.data.model_copy(update={"progress": progress})
            events[at] = event.model_copy(update={"data": changed})
    write(made.index, log_of(events))
    client = made.client("adam")
    shown = data(client.get(f"/releases/{release_id(1)}"), "release")["variants"]
    assert {row["variant"] for row in shown if row["on_pareto_front"]} == set(front)
    assert ("the line is the Pareto front" in client.get(f"/releases/{release_id(1)}").text) == says
    made.close()
