"""Policies that no release can pass, or whose triggers watch nothing, are refused."""

import pytest
import yaml

from clients.cli.policies.policy_template import TEMPLATE
from contracts.policy import ReleasePolicy
from decisions.policies.problems import list_problems
from services.registry.domain.admission import Refusal, decide_policy
from testbed.factories import policy, trigger
from tests.kit.command import run_command

RATIOS = ("error_ratio", "refusal_ratio", "empty_ratio", "repetition_ratio", "drift")


def with_trigger(**about):
    about = {"name": "limit", "action": "manual", **about}
    return policy(triggers=(trigger(name="slow"), trigger(**about)))


def fields(a_policy):
    return [".".join(map(str, problem.field)) for problem in list_problems(a_policy)]


@pytest.mark.parametrize("metric", RATIOS)
@pytest.mark.parametrize("threshold", [1.0, 2.0, 1e308])
@pytest.mark.parametrize("action", ["automatic", "manual"])
def test_a_share_that_nothing_exceeds_is_refused(metric, threshold, action):
    found = fields(with_trigger(metric=metric, threshold=threshold, action=action))
    assert "triggers.1.threshold" in found
    assert fields(with_trigger(metric=metric, threshold=0.999)) == []


def test_no_nan_at_all_can_be_declared():
    assert fields(with_trigger(metric="nan_logits", threshold=0.0)) == []


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"metric": "drift", "threshold": 0.2}, "triggers.1.action"),
        ({"metric": "ttft_ms", "threshold": 299_001.0}, "triggers.1.threshold"),
        ({"metric": "e2e_ms", "threshold": 1e12}, "triggers.1.threshold"),
    ],
)
def test_an_automatic_trigger_that_no_fault_can_rehearse_is_refused(about, field):
    assert fields(with_trigger(**about, action="automatic")) == [field]
    assert fields(with_trigger(**about, action="manual")) == []


EVALUATED = {"sets": [{"name": "basics", "rows": "default"}], "schedule": {}}


def test_a_trigger_that_asks_evaluations_again_needs_some_and_one_that_is_rehearsed():
    worse = trigger(name="worse", metric="evaluation_drop", threshold=0.1)
    assert fields(policy(triggers=(worse, trigger(name="slow")), evaluations=EVALUATED)) == []
    for lacks in ({"sets": []}, {"schedule": None}):
        assert fields(policy(triggers=(worse, trigger(name="slow")), evaluations=EVALUATED | lacks)) == ["evaluations"]
    second = trigger(name="much-worse", metric="evaluation_drop", threshold=0.3)
    assert fields(policy(triggers=(worse, second, trigger(name="slow")), evaluations=EVALUATED)) == ["triggers"]
    alone = policy(triggers=(worse, trigger(name="slow", action="manual")), evaluations=EVALUATED)
    assert fields(alone) == ["triggers"]


@pytest.mark.parametrize(
    ("schedule", "threshold", "refused"),
    [
        ({"every_hours": 48.0}, 0.1, []),
        ({"rows": 19}, 0.1, []),
        ({"rows": 18}, 0.1, ["evaluations.schedule.rows"]),
        ({"rows": 19, "every_hours": 6.0}, 0.1, ["evaluations.schedule.rows"]),
        ({}, 0.9, ["evaluations.schedule.rows"]),
    ],
)
def test_a_schedule_by_which_no_loss_shows_is_refused(schedule, threshold, refused):
    worse = trigger(name="worse", metric="evaluation_drop", threshold=threshold)
    assert fields(policy(triggers=(worse, trigger()), evaluations=EVALUATED | {"schedule": schedule})) == refused


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "error_ratio", "max_value": -0.01},
        {"metric": "error_ratio", "min_value": 1.01},
        {"metric": "ttft_ms", "max_value": 0.0},
        {"metric": "tps_system", "max_ratio": 0.0},
        {"metric": "ttft_ms", "min_ratio": 1.2, "max_ratio": 1.1},
        {"metric": "itl_ms", "min_value": 60, "max_value": 50},
    ],
    ids=str,
)
def test_a_gate_that_no_figure_passes_is_refused(gate):
    assert fields(policy(gates=(gate,))) == ["gates.0"]


def test_gates_at_the_edge_can_be_passed():
    edge = ({"metric": "error_ratio", "max_value": 0.0, "max_ratio": 0.0}, {"metric": "tps_system", "min_value": 0.0})
    assert fields(policy(gates=edge)) == []


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{name: x, metric: error_ratio, threshold: 2}", "triggers.0.threshold"),
        ("{name: x, metric: drift, threshold: 0.2}", "triggers.0.action"),
    ],
)
def test_admission_and_every_command_refuse_the_same_field(tmp_path, line, field):
    text = TEMPLATE.replace("triggers:\n", f"triggers:\n  - {line}\n")
    refused = decide_policy(ReleasePolicy.model_validate(yaml.safe_load(text)), None)
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.details) == ("policy_invalid", {"field": field})
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    at = next(number for number, each in enumerate(text.splitlines(), 1) if line in each)
    for command in (("validate", str(file)), ("explain", str(file)), ("set", "support-bot", str(file))):
        code, out, err = run_command({}, "policy", *command)
        assert code != 0
        assert f"{file}:{at}: {refused.reason}" in out + err
