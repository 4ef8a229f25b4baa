"""Rules and dashboards: they name what exists, and each rule fires and stays quiet as it says (`promtool`)."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from contracts.metrics import METRICS
from contracts.services import OPTIONAL, SERVICES
from testbed.monitoring import dashboard_queries
from tests.kit.wiring import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"


def load(name):
    return yaml.safe_load((PROMETHEUS / name).read_text())


RULES = [rule for group in load("rules.yaml")["groups"] for rule in group["rules"]]

NAME = re.compile(r"\b(?:target:)?slipway_[a-z0-9_:]+")
LABELS = re.compile(r"\{([^{}]*)\}|\bby \(([^)]*)\)")
SERIES = {series: metric for metric in METRICS for series in metric.series}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
OF_PROMETHEUS = {"job", "instance", "le", "model"}
AT = "100m"
EXPRESSIONS = {
    **{rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES},
    **{f"{title} {number}": expr for number, (title, expr) in enumerate(dashboard_queries())},
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
    "slipway_dead_letters",
    "slipway_consumer_pending_messages", "slipway_consumer_unacknowledged_messages", "slipway_gateway_route_share_ratio",
}  # fmt: skip
"""Gauges that every replica exports with the same value."""


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_every_replica_shows_is_never_added_up(name):
    added = re.findall(r"\bsum (?:by \([^)]*\) )?\((slipway_\w+)|\bsum\((slipway_\w+)", EXPRESSIONS[name])
    assert not {metric for pair in added for metric in pair} & OF_RECORDS


def test_every_metric_that_an_operator_watches_is_on_a_dashboard():
    shown = {name for expr in EXPRESSIONS.values() for name in NAME.findall(expr)}
    assert {metric.name for metric in METRICS if not {*metric.series, metric.name} & shown} == set()


def test_runbooks_of_rules_exist():
    pages = {name: rule["annotations"]["runbook_url"] for name, rule in ALERTS.items()}
    assert {name for name, page in pages.items() if not (ROOT / page).is_file()} == set()


def test_all_services_are_scraped():
    (job,) = load("prometheus.yaml")["scrape_configs"]
    assert [target.split(":")[0] for target in job["static_configs"][0]["targets"]] == [
        service for service in SERVICES if service not in OPTIONAL
    ]


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    for path in (ROOT / "deploy/grafana").glob("*.json"):
        shown = json.loads(path.read_text())["panels"]
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


def test_each_rule_has_series_on_which_it_fires_and_some_on_which_it_does_not():
    tested = {name: set() for name in ALERTS if name != "SlipwayWatchdog"}
    for test in load("rules.test.yaml")["tests"]:
        for check in test["alert_rule_test"]:
            tested[check["alertname"]].add(bool(check["exp_alerts"]))
    assert {name for name, seen in tested.items() if seen != {True, False}} == set()


def test_each_rule_fires_and_stays_quiet_as_it_says(promtool, tmp_path):
    document = load("rules.yaml")
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # they hold figures
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document))
    shutil.copy(PROMETHEUS / "rules.test.yaml", tmp_path)
    done = subprocess.run(
        [promtool, "test", "rules", "rules.test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
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
    assert f"{len(RULES)} rules found" in done.stdout + done.stderr
