"""Rules and dashboards: they name what exists, and each rule fires and stays quiet as it says (`promtool`)."""

import re
import shutil
import subprocess

import pytest
import yaml

from contracts.metrics import METRICS
from contracts.services import OPTIONAL, SERVICES
from deploy.monitoring import panels, promql, rules
from deploy.monitoring.dashboards import DASHBOARDS
from tests.kit.wiring import ROOT

NAME = re.compile(r"\b(?:target:)?slipway_[a-z0-9_:]+")
LABELS = re.compile(r"\{([^{}]*)\}|\bby \(([^)]*)\)")
SERIES = {series: metric for metric in METRICS for series in metric.series}
RECORDED = {rule.name for rule in rules.RECORDINGS}
OF_PROMETHEUS = {"job", "instance", "le", "model"}
AT = "100m"
EXPRESSIONS = {
    **{rule.name: rule.expr for rule in rules.RULES},
    **{rule.name: rule.expr for rule in rules.RECORDINGS},
    **{
        f"{board.title}: {panel.title} {number}": query.expr
        for board in DASHBOARDS.values()
        for row in board.rows
        for panel in row.panels
        for number, query in enumerate(panel.queries)
    },
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_exist(name):
    expr = EXPRESSIONS[name]
    named = set(NAME.findall(expr))
    assert named <= {*SERIES, *RECORDED}
    known = {label for series in named & set(SERIES) for label in SERIES[series].labels} | OF_PROMETHEUS
    if named & RECORDED:
        known |= {"environment", "target"}
    for selector, grouping in LABELS.findall(expr):
        used = re.findall(r"(\w+)\s*=~?", selector) + re.findall(r"\w+", grouping)
        assert set(used) <= known, expr


OF_RECORDS = {
    "slipway_releases", "slipway_targets", "slipway_target_memory_bytes", "slipway_fleet_memory_reserved_bytes",
    "slipway_fleet_memory_budget_bytes", "slipway_staging_waiting", "slipway_alerts_open",
    "slipway_standbys_unproven", "slipway_dead_letters",
    "slipway_consumer_pending_messages", "slipway_consumer_unacknowledged_messages", "slipway_gateway_route_share_ratio",
}  # fmt: skip
"""Gauges that every replica exports with the same value."""


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_every_replica_shows_is_never_added_up(name):
    added = re.findall(r"\bsum (?:by \([^)]*\) )?\((slipway_\w+)|\bsum\((slipway_\w+)", EXPRESSIONS[name])
    assert not {metric for pair in added for metric in pair} & OF_RECORDS


def test_a_selector_refuses_a_label_that_the_metric_does_not_have():
    with pytest.raises(ValueError, match="slipway_releases has no label outcome; it has step"):
        promql.select(next(metric for metric in METRICS if metric.name == "slipway_releases"), outcome="promoted")


def test_every_metric_that_an_operator_watches_is_on_a_dashboard():
    shown = {name for expr in EXPRESSIONS.values() for name in NAME.findall(expr)}
    assert {metric.name for metric in METRICS if not {*metric.series, metric.name} & shown} == set()


def test_runbooks_of_rules_exist():
    assert [rule.runbook for rule in rules.RULES if not (ROOT / rule.runbook).is_file()] == []


def test_all_services_are_scraped():
    (job,) = rules.render_scrapes()["scrape_configs"]
    assert [target.split(":")[0] for target in job["static_configs"][0]["targets"]] == [
        service for service in SERVICES if service not in OPTIONAL
    ]


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    for board in DASHBOARDS.values():
        shown = panels.render(board)["panels"]
        assert len({panel["id"] for panel in shown}) == len(shown)
        cells = [
            (x, y)
            for panel in shown
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) == 23


@pytest.fixture(scope="module")
def promtool():
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("no promtool: install the package `prometheus`")
    return path


def checks(rule):
    """Return the two tests of a rule: by its series it fires, by others it does not."""
    alert = {"exp_labels": {"severity": rule.severity, **rule.labels}}
    fires = {"alertname": rule.name, "eval_time": AT, "exp_alerts": [alert]}
    quiet = {"alertname": rule.name, "eval_time": AT, "exp_alerts": []}
    for series, expected in ((rule.fires, fires), (rule.quiet, quiet)):
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        yield {"name": rule.name, "interval": "1m", "input_series": inputs, "alert_rule_test": [expected]}


def test_each_rule_fires_and_stays_quiet_as_it_says(promtool, tmp_path):
    tested = [rule for rule in rules.RULES if rule.name != "SlipwayWatchdog"]
    document = rules.render()
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # they hold figures: the next test reads them
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [check for rule in tested for check in checks(rule)],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_committed_files(promtool):
    done = subprocess.run(
        [promtool, "check", "config", "deploy/prometheus/prometheus.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules.RULES) + len(rules.RECORDINGS)} rules found" in done.stdout + done.stderr
