"""`slipway policy init|validate|explain`: a template that is valid, lines of problems, sentences."""

import contextlib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clients.cli.errors import CommandError
from clients.cli.policies.policy_template import TEMPLATE
from clients.cli.policies.policy_times import explain_times, period
from clients.cli.yaml_source import InvalidError, read_documents
from contracts.evaluations import Evaluations
from contracts.policy import ReleasePolicy
from testbed.factories import policy
from tests.kit.command import run_command

WRONG = """\
gates:
  - {metric: error_ratio, max_value: 0.01}
  - {metric: ttft_ms}
canary:
  steps: [0.5, 0.2]
  min_request: 3
triggers:
  - name: slow
    metric: ttft_ms
    threshold: -1
"""


def slipway(*arguments):
    return run_command({}, "policy", *arguments)


def test_the_template_is_a_valid_policy_and_names_every_field(tmp_path):
    file = tmp_path / "policy.yaml"
    code, out, _ = slipway("init", str(file))
    assert (code, "slipway policy validate" in out) == (0, True)
    assert slipway("validate", str(file))[:2] == (0, f"{file} is a valid policy\n")
    assert {name for name in ReleasePolicy.model_fields if f"{name}:" not in TEMPLATE} == set()
    assert "give --force" in slipway("init", str(file))[2]
    assert slipway("init", str(file), "--force")[0] == 0


def test_the_choices_that_the_template_has_as_comments_are_valid_as_well():
    uncommented = [
        line[2:] for line in TEMPLATE.splitlines() if line.startswith("# ") and line[2:].split(":")[0].isidentifier()
    ]
    extra = {}
    for line in uncommented:
        extra |= yaml.safe_load(line) if "{" in line or "[" in line else {}
    assert {"approvals", "promotion", "deadlines", "sources", "attesters"} <= set(extra)
    ReleasePolicy.model_validate({**yaml.safe_load(TEMPLATE), **extra})


def test_a_duration_without_an_end_is_a_problem_of_its_line(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(
        f"{TEMPLATE.partition('triggers:')[0]}triggers:\n- {{name: a, metric: ttft_ms, threshold: 800, window_s: 1e+300}}"
    )
    for command in ("validate", "explain"):
        code, out, err = slipway(command, str(file))
        assert code != 0
        assert "triggers.0.window_s is 1e+300 s; the limit is 3,153,600,000 s (100 years): lower it." in out + err
    assert f"{file}:{len(file.read_text().splitlines())}" in slipway("validate", str(file))[1]


def test_every_problem_has_its_line(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(WRONG)
    code, out, _ = slipway("validate", str(file))
    assert code == 1
    assert [line.split(": ")[0].removeprefix(str(file)) for line in out.splitlines()] == [":3", ":6", ":8"]
    assert "a gate needs max_value" in out
    assert "canary.min_request" in out
    code, out, _ = slipway("validate", str(file), "--json")
    assert (code, json.loads(out)["valid"]) == (1, False)
    assert json.loads(out)["problems"][1] == {
        "file": str(file),
        "line": 6,
        "field": "canary.min_request",
        "message": "unknown field min_request; did you mean min_requests?",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("triggers: []\ntriggers: []\n", ":2: triggers: the key is given twice"),
        ("a: &x [1]\nb: *x\n", "used again by an alias"),
        ("a: &x [*x]\n", "used again by an alias"),
    ],
)
def test_what_yaml_would_drop_or_repeat_is_a_problem(tmp_path, text, message):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(InvalidError, match=message):
        read_documents(file)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(CommandError):
        read_documents(file)


def test_an_automatic_trigger_without_a_rehearsal_is_a_problem_before_the_registry_refuses_it(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(TEMPLATE.replace("rehearsal: required", "rehearsal: not_required"))
    code, out, _ = slipway("validate", str(file))
    assert code == 1
    assert "only for manual triggers, but these are automatic: slow, errors" in out


def test_a_policy_is_explained_in_the_order_of_a_release(tmp_path, snapshot):
    file = tmp_path / "policy.yaml"
    file.write_text(TEMPLATE)
    code, out, _ = slipway("explain", str(file))
    assert code == 0
    assert out.index("Canary of 5%") < out.index("Canary of 25%")
    assert out + slipway("explain", str(file), "--first", "--rps", "2")[1] == snapshot
    assert json.loads(slipway("explain", str(file), "--json")[1])["requests_per_second"] == 1.0


def test_rows_that_show_a_loss_are_said_of_each_limit():
    bounds = [{"max_drop": 0.05, "max_drop_from_anchor": 0.1}, {"slice": "*", "min_value": 0.5}]
    own = {"name": "own", "scorers": [{"kind": "equals"}], "bounds": bounds}
    declared = Evaluations.model_validate({"sets": [own]})
    rows = [line for line in explain_times(policy(evaluations=declared), 1.0) if line.startswith("Evaluation own")]
    assert len(rows) == 1, "a limit without a comparison needs no number of rows"


def test_a_canary_for_some_callers_is_explained_and_needs_a_step():
    only_for = {"steps": (0.5, 0.1), "only_for": ("team:staff", "key:alice")}
    traffic = str(explain_times(policy(canary=only_for), 1.0))
    assert "Canary of 50% of team:staff, key:alice" in traffic
    assert "Canary of 10%:" in traffic
    for wrong in ({"steps": ()}, {"steps": (0.5, 0.2, 0.1)}, {"steps": (0.5, 0.5)}, {"only_for": ("alice",)}):
        with pytest.raises(ValidationError):
            policy(canary={**only_for, **wrong})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "90 s"), (900, "15 min"), (14_400, "4 h"), (172_800, "2 days"), (604_800, "7 days"), (0.5, "0.5 s")],
)
def test_periods_are_written_as_people_write_them(seconds, text):
    assert period(seconds) == text


@pytest.mark.parametrize("text", ["=", "a: !!python/object:os.system x", "a: 2026-99-99", "? [1]\n: 2", "a: !x 1"])
def test_a_value_that_yaml_cannot_make_is_refused(tmp_path, text):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    code, _, err = slipway("validate", str(file))
    assert code in (1, 2)
    assert "Traceback" not in err


def test_a_file_that_is_no_policy_is_named_as_one(tmp_path):
    file = tmp_path / "adapter_config.json"
    file.write_text('{"r": 8}')
    code, _, err = slipway("explain", str(file))
    assert code == 2
    assert f"the policy {file} is not valid, 2 problems:" in err
