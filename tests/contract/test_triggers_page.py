"""The page about triggers lists every metric with the fault that rehearses it, and its example is a valid policy."""

import re
from typing import get_args

import pytest
import yaml

from contracts.policy import PER_REQUEST_METRICS, ReleasePolicy, Trigger, TriggerMetric
from decisions.drills import describe_fault
from decisions.triggers import KINDS
from services.rollback_controller.domain.rehearsal_plan import plan_fault
from tests.kit.wiring import ROOT

PAGE = (ROOT / "docs/triggers.md").read_text()
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \|.*\| (\w+) \| `([\w=]+)` \|$", PAGE, re.MULTILINE)}
EXAMPLE = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])


def test_every_metric_is_listed():
    assert set(ROWS) == set(get_args(TriggerMetric)) - {"drift"}
    assert "`drift`" in PAGE


@pytest.mark.parametrize("metric", ROWS)
def test_a_row_names_the_kind_of_alert_and_the_fault(metric):
    threshold = -2.0 if metric == "logprob_mean" else 0.5
    fault = plan_fault(Trigger(name="t", metric=metric, threshold=threshold))
    kind, named = ROWS[metric]
    assert kind == KINDS[metric]
    assert describe_fault(fault).startswith(named)


def test_the_tables_are_those_of_the_thresholds():
    first = PAGE.split("Or the threshold bounds")[0]
    assert [metric for metric in ROWS if f"| `{metric}` |" in first] == [
        metric for metric in ROWS if metric in PER_REQUEST_METRICS
    ]


def test_the_example_is_valid():
    assert len(ReleasePolicy.model_validate(EXAMPLE).triggers) == 6
